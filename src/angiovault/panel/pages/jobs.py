"""The jobs: started, looked at, cancelled and begun again; and the storage commitments that wait for delivery."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from angiovault.archive import commitments
from angiovault.archive.archive import Archive
from angiovault.archive.exchange.own_storage import lies_in
from angiovault.archive.header import is_uid
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.inifile import ConfigError
from angiovault.jobs import book
from angiovault.jobs.book import Job, NoSuchJob
from angiovault.jobs.line import NotNow
from angiovault.panel import folders
from angiovault.panel.context import Context
from angiovault.panel.web import Asked, Refused, Route, said

_LONGEST_TITLE: Final = 200
_LONGEST_PATH: Final = 4096
_MOST_COMMITMENTS: Final = 50


def routes(context: Context) -> list[Route]:
    """Return the routes of the page."""
    line = context.jobs
    return [
        Route("GET", "/api/jobs", lambda asked: _listed(context)),
        Route("POST", "/api/jobs", lambda asked: _start(asked, context)),
        Route("GET", "/api/jobs/<number>", lambda asked, number: _details(context, number)),
        Route("POST", "/api/jobs/<number>/cancel", lambda asked, number: _change(asked, context, number, line.cancel)),
        Route("POST", "/api/jobs/<number>/again", lambda asked, number: _change(asked, context, number, line.again)),
        Route("POST", "/api/jobs/<number>/remove", lambda asked, number: _change(asked, context, number, line.remove)),
        Route("POST", "/api/commitments/<number>/retry", lambda asked, number: _retry(asked, context, number)),
        Route("POST", "/api/commitments/<number>/cancel", lambda asked, number: _give_up(asked, context, number)),
    ]


# ---- what there is


def _listed(context: Context) -> dict[str, Any]:
    """Return everything that the page shows, so that it asks once."""
    found: dict[str, Any] = {"jobs": [], "away": "", "commitments": [], "commitments_away": ""}
    try:
        found["jobs"] = [_shown(job) for job in reversed(context.jobs.book().all())]
    except (ConfigError, StorageError) as error:
        found["away"] = str(error)
    try:
        found["commitments"] = commitments.listed(_archive(context).index, _MOST_COMMITMENTS)
    except (ConfigError, StorageError, IndexUnavailable) as error:
        found["commitments_away"] = str(error)
    return found


def active(context: Context) -> list[dict[str, Any]]:
    """Return the jobs that run or wait; none when the storage is away."""
    try:
        return [_shown(job) for job in context.jobs.book().all() if job.state in book.ACTIVE]
    except (ConfigError, StorageError):  # the overview says so itself
        return []


def _shown(job: Job) -> dict[str, Any]:
    names = (
        *("id", "kind", "title", "user", "state", "created", "began", "ended", "items", "total_items", "bytes"),
        *("total_bytes", "item_rate", "byte_rate", "counts", "problem_count", "reason"),
    )
    return {
        **{name: getattr(job, name) for name in names},
        "problem": job.problems[-1] if job.problems else "",
        "device": job.parameters.get("device", ""),
        "path": job.parameters.get("path", ""),
        "move": job.parameters.get("move", False),
        "goes_on": job.kind in (book.IMPORT, book.SEND) or bool(job.checkpoint),
    }


def _details(context: Context, number: str) -> dict[str, Any]:
    with _refusals():
        job = context.jobs.book().read(number)
    return {**_shown(job), "problems": job.problems}


# ---- starting and changing


def _start(asked: Asked, context: Context) -> dict[str, Any]:
    kind, title = asked.text("kind", 20), asked.text("title", _LONGEST_TITLE)
    if kind not in book.KINDS:
        raise Refused(422, "refused.job-kind")
    parameters: dict[str, Any] = {}
    what = kind
    if kind == book.IMPORT:
        parameters = {"path": _folder(asked, context), "move": _flag(asked, "move")}
        what = f"{kind} of {parameters['path']}" + (", taking over" if parameters["move"] else "")
    elif kind == book.SEND:
        parameters = {"device": _device(asked, context), "uids": _uids(asked)}
        what = f"{kind} to {parameters['device']}"
    with _refusals():
        job = context.jobs.add(kind, parameters, title, asked.user)
    context.note(asked.user, f"started the job {job.id}: {what}")
    return {"job": job.id}


def _flag(asked: Asked, name: str) -> bool:
    value = asked.body.get(name, False)
    if not isinstance(value, bool):
        raise Refused(400, "refused.malformed")
    return value


def _folder(asked: Asked, context: Context) -> str:
    """Return the folder to import from, links followed.

    Raises
    ------
    Refused
        When it is none of those that the panel may look at, or the archive's own.
    """
    text = asked.text("path", _LONGEST_PATH)
    try:
        archive = _archive(context, with_index=False)
        storage = archive.store.root.absolute()
        path = Path(text)
        if not text or not folders.is_below(path, folders.roots(context.place.nas, storage)):
            raise Refused(422, "refused.fields", {"path": said("refused.folder")})
        if not path.is_dir():
            raise Refused(422, "refused.fields", {"path": said("wrong.folder-missing", path=text)})
        if lies_in(archive.store, path):
            raise Refused(422, "refused.fields", {"path": said("wrong.folder-own")})
        return str(path.resolve())
    except (ConfigError, StorageError, OSError, ValueError) as error:  # ValueError: no path has such signs
        raise Refused(409, "refused.no-archive", reason=str(error)) from None


def _device(asked: Asked, context: Context) -> str:
    name = asked.text("device", 64)
    try:
        device = context.devices().by_name(name)
    except ConfigError as error:
        raise Refused(409, "refused.settings", reason=str(error)) from None
    if device is None:
        raise Refused(422, "refused.fields", {"device": said("wrong.device-unknown", name=name)})
    if device.destination is None:
        raise Refused(422, "refused.fields", {"device": said("wrong.device-not-callable")})
    return device.name


def _uids(asked: Asked) -> list[str]:
    uids = asked.body.get("uids")
    if not isinstance(uids, list) or not uids or not all(isinstance(uid, str) and is_uid(uid) for uid in uids):
        raise Refused(422, "refused.job-uids")
    return uids


def _change(asked: Asked, context: Context, number: str, change: Callable[[str], object]) -> dict[str, Any]:
    with _refusals():
        change(number)
    context.note(asked.user, f"changed the job {number}: {change.__name__}")
    return {"job": number}


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what keeps a job from being changed into a refusal."""
    try:
        yield
    except NoSuchJob:
        raise Refused(404, "refused.not-found") from None
    except NotNow:
        raise Refused(409, "refused.job-state") from None
    except (ConfigError, StorageError) as error:
        raise Refused(409, "refused.no-archive", reason=str(error)) from None


# ---- storage commitments


def _archive(context: Context, with_index: bool = True) -> Archive:
    archive = context.archive(context.place.config())
    if with_index:
        archive.inspect()
    else:
        archive.store.open()
    return archive


def _retry(asked: Asked, context: Context, number: str) -> dict[str, Any]:
    return _change_commitment(asked, context, number, commitments.retry)


def _give_up(asked: Asked, context: Context, number: str) -> dict[str, Any]:
    return _change_commitment(asked, context, number, commitments.cancel)


def _change_commitment(
    asked: Asked, context: Context, number: str, change: Callable[[Any, int], bool]
) -> dict[str, Any]:
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise Refused(404, "refused.not-found")
    try:
        changed = change(_archive(context).index, int(number))
    except (ConfigError, StorageError, IndexUnavailable) as error:
        raise Refused(409, "refused.no-archive", reason=str(error)) from None
    if not changed:
        raise Refused(409, "refused.commitment-state")
    context.note(asked.user, f"changed the storage commitment request {number}: {change.__name__}")
    return {}
