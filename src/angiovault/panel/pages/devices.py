"""The devices: who is known and what they may do, who was refused, and whether they are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from angiovault.archive import contacts, refusals
from angiovault.archive.archive import Archive
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.models import Instance
from angiovault.archive.store import StorageError
from angiovault.devices import DEVICE_SETTINGS, Device, Operation
from angiovault.dimse.scu import Destination
from angiovault.inifile import ConfigError
from angiovault.panel import echoing
from angiovault.panel.context import Context
from angiovault.panel.rules import problem_of, rules_of
from angiovault.panel.web import Asked, Message, Refused, Route, said

_MOST_REFUSALS: Final = 50
_LATEST: Final = 2000
"""Instances in which the last one of each device is looked for: more would be read from disk."""


def routes(context: Context) -> list[Route]:
    """Return the routes of the page."""
    return [
        Route("GET", "/api/devices", lambda asked: _listed(context)),
        Route("POST", "/api/devices/add", lambda asked: _add(asked, context)),
        Route("POST", "/api/devices/change", lambda asked: _change(asked, context)),
        Route("POST", "/api/devices/remove", lambda asked: _remove(asked, context)),
        Route("POST", "/api/devices/echo", lambda asked: _echo(asked, context)),
    ]


def _listed(context: Context) -> dict[str, Any]:
    devices = _book_of(context)
    found: dict[str, Any] = {"refusals": [], "last_sent": {}, "contacts": {}, "away": ""}
    try:
        config = context.place.config()
        archive = context.archive(config)
        archive.inspect()
        found["refusals"] = [_refusal(item) for item in refusals.listed(archive.index)[:_MOST_REFUSALS]]
        known = contacts.listed(archive.index)
        found["contacts"] = {device.name: _contacts(device, known) for device in devices}
        found["last_sent"] = _last_sent(archive)
    except (ConfigError, IndexUnavailable, StorageError) as error:
        found["away"] = str(error)
    return {
        "devices": [_shown(device) for device in devices],
        "rules": rules_of(DEVICE_SETTINGS),
        "operations": list(Operation),
        **found,
    }


def _shown(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        **device.as_text(),
        "operations": [operation for operation in Operation if operation in device.allow],
        "callable": device.destination is not None,
    }


def _refusal(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "reason": {"en": item["reason"], "zh": item["reason_zh"]}}


def _contacts(device: Device, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a device asked for, the latest first, each operation once; also before it was a known device."""

    def is_its(item: dict[str, Any]) -> bool:
        if item["device"]:
            return bool(item["device"] == device.name)
        return bool(item["calling"] == device.ae_title and item["address"] in device.hosts)

    latest: dict[str, dict[str, Any]] = {}
    for item in filter(is_its, known):
        latest.setdefault(item["operation"], item)
    return list(latest.values())


def _last_sent(archive: Archive) -> dict[str, str]:
    """Return when each AE title sent its last image, of those that sent some of the latest."""
    with archive.index.session():
        query = Instance.select(Instance.calling, Instance.received).order_by(Instance.id.desc()).limit(_LATEST)
        latest: dict[str, str] = {}
        for calling, received in query.tuples():
            latest[calling] = max(received, latest.get(calling, ""))
    return latest


def _book_of(context: Context) -> tuple[Device, ...]:
    try:
        return context.devices().all()
    except ConfigError as error:
        raise Refused(409, "refused.settings", reason=str(error)) from None


def _texts_of(asked: Asked) -> dict[str, str]:
    return {row.name: asked.text(row.name, 2000).strip() for row in DEVICE_SETTINGS}


def _checked(asked: Asked, context: Context, replaced: str = "") -> Device:
    """Return the device that the request describes.

    Raises
    ------
    Refused
        When it cannot be one, or does not go together with the others.
    """
    name, texts = asked.text("name").strip(), _texts_of(asked)
    problems = {
        row.name: problem
        for row in DEVICE_SETTINGS
        if (problem := problem_of(row, texts[row.name], Path())) is not None
    }
    others = [device for device in _book_of(context) if device.name.casefold() != replaced.casefold()]
    problems.update(_conflicts(name, texts, others))
    if problems:
        raise Refused(422, "refused.fields", problems)
    try:
        return Device.from_text(name, texts)
    except ConfigError:
        raise Refused(422, "refused.fields", {"name": said("wrong.device-name")}) from None


def _conflicts(name: str, texts: Mapping[str, str], others: list[Device]) -> dict[str, Message]:
    problems = {}
    if name.casefold() in {device.name.casefold() for device in others}:
        problems["name"] = said("wrong.device-name-taken", name=name)
    rival = next((device for device in others if device.ae_title == texts["ae-title"] and device.port), None)
    if rival is not None and texts["port"]:
        problems["port"] = said("wrong.device-port", ae_title=rival.ae_title, name=rival.name)
    return problems


def _add(asked: Asked, context: Context) -> dict[str, Any]:
    device = _checked(asked, context)
    _write(lambda: context.devices().add(device))
    context.note(asked.user, f"added the device {device.name}")
    return {"name": device.name}


def _change(asked: Asked, context: Context) -> dict[str, Any]:
    replaced = asked.text("replaces")
    device = _checked(asked, context, replaced)
    _write(lambda: context.devices().replace(replaced, device))
    context.note(asked.user, f"changed the device {device.name}")
    return {"name": device.name}


def _remove(asked: Asked, context: Context) -> dict[str, Any]:
    name = asked.text("name")
    _write(lambda: context.devices().remove(name))
    context.note(asked.user, f"removed the device {name}")
    return {"name": name}


def _write(change: Callable[[], None]) -> None:
    try:
        change()
    except ConfigError as error:
        raise Refused(409, "refused.settings", reason=str(error)) from None


def _echo(asked: Asked, context: Context) -> dict[str, Any]:
    try:
        config = context.place.config()
    except ConfigError as error:
        raise Refused(409, "refused.settings", reason=str(error)) from None
    device = _described(asked, context)
    if device.destination is None:
        raise Refused(422, "refused.fields", {"port": said("wrong.device-not-callable")})
    destination = Destination.of(device)
    return context.tasks.start(lambda: echoing.echo(destination, config.ae_title))


def _described(asked: Asked, context: Context) -> Device:
    """Return the device to call: a known one by its name, or that of a form which is not saved yet."""
    if "host" in asked.body:
        texts = _texts_of(asked)
        rows = [row for row in DEVICE_SETTINGS if row.name in ("ae-title", "host", "port")]
        problems = {
            row.name: problem for row in rows if (problem := problem_of(row, texts[row.name], Path())) is not None
        }
        if problems:
            raise Refused(422, "refused.fields", problems)
        return Device.from_text("new", {row.name: texts[row.name] for row in rows})
    name = asked.text("name")
    found = next((device for device in _book_of(context) if device.name == name), None)
    if found is None:
        raise Refused(404, "refused.not-found")
    return found
