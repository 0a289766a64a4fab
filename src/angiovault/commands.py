"""What each command of `angiovault` does; the command line itself is read in `cli`."""

from __future__ import annotations

import argparse
import json
import os
import re
from typing import TYPE_CHECKING, Any

from angiovault import logs, opening, work
from angiovault.archive import refusals
from angiovault.archive.archive import Archive
from angiovault.archive.finding.selection import StoredInstance, versions
from angiovault.archive.finding.selection import conflicts as conflicting
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.archive.summary import summary
from angiovault.config import Config, config_path, flag_values, load
from angiovault.devices import DEVICE_SETTINGS, Device, DeviceBook
from angiovault.kinds import read_ae_title
from angiovault.progress import Progress

if TYPE_CHECKING:
    from angiovault.dimse.scu import Destination

PARTLY = 3
"""Exit code when some of the work could not be done."""


class CommandError(Exception):
    """The command cannot do what it was asked; the text says why."""


def _settings(args: argparse.Namespace) -> Config:
    config: Config = args.settings
    logs.set_up(config.log_level, config.log_file)
    return config


def _devices(args: argparse.Namespace) -> DeviceBook:
    return DeviceBook(config_path(args.config))


def serve(args: argparse.Namespace) -> int:
    """Run the archive."""
    from angiovault import service  # a command begins sooner without what only another one needs

    service.serve(_settings(args), config_path(args.config), lambda: load(args.config, flag_values(args)))
    return 0


def import_files(args: argparse.Namespace) -> int:
    """Take in files."""
    archive = opening.open_archive(_settings(args), create=True)
    counts = work.Counts()
    with Progress("import") as progress:
        work.take_in(archive, args.paths, args.move, counts, progress)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "nothing found")
    return _exit_code(counts)


def _exit_code(counts: work.Counts) -> int:
    return PARTLY if any(counts[name] for name in work.PROBLEMS) else 0


def reindex(args: argparse.Namespace) -> int:
    """Rebuild the index."""
    config = _settings(args)
    if args.second_folder_is_lost:
        opening.archive_of(config).store.give_up_second()
    archive = opening.open_archive(config)
    counts = work.Counts()
    with Progress("reindex") as progress:
        work.reindex(archive, counts, progress)
    failed = counts[work.FAILED]
    print(f"{counts['indexed']} instances indexed" + (f", {failed} files could not be" if failed else ""))
    return _exit_code(counts)


def verify(args: argparse.Namespace) -> int:
    """Check every stored file."""
    archive = opening.archive_of(_settings(args))
    archive.store.open()
    counts = work.Counts()
    with Progress("verify") as progress:
        work.verify(archive, counts, progress, rate=args.rate)
    damaged, missing = counts[work.DAMAGED], counts[work.MISSING]
    print(f"{counts['sound']} files are sound, {damaged} damaged, {missing} missing")
    return _exit_code(counts)


def status(args: argparse.Namespace) -> int:
    """Show whether the archive is well."""
    config = _settings(args)
    found = summary(opening.archive_of(config), opening.is_running)
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_status_lines(config, found)))
    return 0 if found["problem"] == "" else 1


def _status_lines(config: Config, found: dict[str, Any]) -> list[str]:
    counts, commitment = found["counts"], found["commitment"]
    lines = [
        f"service      {'running' if found['running'] else 'not running'}",
        f"storage      {config.storage}: {found['storage']}",
        "free         " + ("?" if found["free_bytes"] is None else f"{found['free_bytes'] / 1e9:.1f} GB"),
        *_folder_lines(found["folders"]),
        f"index        {config.index_url.redacted()}: {found['index']}",
    ]
    if counts:
        lines.append(
            f"holds        {counts['patients']} patients, {counts['studies']} studies, {counts['series']} series, "
            f"{counts['instances']} instances, {counts['bytes'] / 1e9:.2f} GB"
        )
        lines.append(
            f"conflicts    {counts['conflicts']} instances came with several contents, "
            f"{counts['studies_with_several_patients']} studies with several patients"
        )
    lines.append(f"journal      {found['journal']} instances wait for the index, {found['set_aside']} it does not take")
    if found["unsettled"]:
        lines.append(f"incoming     {found['unsettled']} instances wait for their places")
    lines.append(f"commitment   {commitment.get('waiting', 0)} wait, {commitment.get('delivered', 0)} delivered")
    lines += [
        f"             {item['transaction_uid']} of {item['requestor']}: {item['instances']} instances, "
        f"{item['attempts']} attempts; {item['problem']}"
        for item in found["commitments_waiting"]
    ]
    check = found["check"]
    if check:
        lines.append(f"check        {check['files']} files read, {len(check['damaged'])} damaged")
    lines += [
        f"refused      {item['calling']}@{item['address']} to {item['called']}, {item['times']} times, "
        f"last {item['last']}: {item[_reason()]}"
        for item in found["refusals"][:10]
    ]
    if found["problem"]:
        lines.append(f"PROBLEM      {found['problem']}")
    return lines


def _reason() -> str:
    """Return which reason of a refusal this user reads: Chinese where the environment asks for it (locale(7))."""
    chosen = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "reason_zh" if chosen.startswith("zh") else "reason"


def _folder_lines(folders: list[dict[str, Any]]) -> list[str]:
    """Return a line for each of two folders; of a single one all has been said."""
    if len(folders) < 2:
        return []
    return [f"             {folder['path']}: {folder['free_bytes'] / 1e9:.1f} GB" for folder in folders]


def _destination(args: argparse.Namespace, text: str) -> Destination:
    from angiovault.dimse.scu import Destination  # see serve

    match = re.fullmatch(r"(.+)@(\[[0-9a-fA-F:.]+\]|[^@:]+):([0-9]{1,5})", text)
    if match:
        return Destination(read_ae_title(match[1]), match[2].strip("[]"), int(match[3]))
    device = _devices(args).by_name(text)
    if device is None:
        raise CommandError(f"{text!r} is no configured device and not of the form AET@HOST:PORT")
    return Destination.of(device)


def echo(args: argparse.Namespace) -> int:
    """Ask a device whether it is there."""
    from angiovault.dimse import scu  # see serve

    destination = _destination(args, args.device)
    scu.echo(destination, scu.Limits.of(_settings(args)))
    print(f"{destination} is there")
    return 0


def _find(archive: Archive, uids: list[str]) -> list[StoredInstance]:
    try:
        return work.find(archive, uids)
    except LookupError as error:
        raise CommandError(str(error)) from error


def send(args: argparse.Namespace) -> int:
    """Send instances to a device."""
    from angiovault import sending  # see serve

    config = _settings(args)
    destination = _destination(args, args.device)
    archive = opening.open_archive(config)
    wanted = _find(archive, args.uids)
    counts = work.Counts()
    with Progress("send", len(wanted)) as progress:
        sending.send(archive, _devices(args), config, destination, wanted, counts, progress)
    print(f"{counts['sent']} of {len(wanted)} instances sent to {destination}")
    return _exit_code(counts)


def export(args: argparse.Namespace) -> int:
    """Copy instances out as files."""
    from angiovault.archive.exchange import exporting  # see serve

    archive = opening.open_archive(_settings(args))
    failed = 0
    try:
        with Progress("export") as progress:
            for item in exporting.export(archive, args.uids, args.to, args.dicomdir, args.zip):
                if item.problem:
                    failed += 1
                    progress.say(f"{item.target}: {item.problem}")
                progress.advance(1, item.size)
    except exporting.CannotExport as error:
        raise CommandError(str(error)) from error
    print(f"{progress.items - failed} instances exported to {args.to}" + (f", {failed} failed" if failed else ""))
    return PARTLY if failed else 0


def conflicts(args: argparse.Namespace) -> int:
    """List conflicts, or choose the current version of an instance."""
    archive = opening.open_archive(_settings(args))
    index = archive.ready_index()
    if args.choose:
        uid, _, content = args.choose.partition("=")
        try:
            archive.choose(uid, content)
        except LookupError as error:
            raise CommandError(str(error)) from error
        print(f"{content} is the current version of {uid}")
        return 0
    for uid in conflicting(index):
        print(uid)
        for version in versions(index, uid):
            mark = "current" if version.current else "       "
            print(f"  {mark} {version.content} {version.size} bytes {version.path}")
    return 0


def device_list(args: argparse.Namespace) -> int:
    """List the devices and the latest refusals."""
    config = _settings(args)
    for device in _devices(args).all():
        where = ", ".join(device.hosts) + (f" port {device.port}" if device.port else "")
        may = " ".join(sorted(device.allow)) or "nothing"
        print(f"{device.name}: {device.ae_title} at {where}; may {may}; character set {device.character_set}")
    try:
        archive = opening.open_archive(config)
        refused = refusals.listed(archive.ready_index())
    except (StorageError, IndexUnavailable):
        return 0  # the devices are in the configuration; who knocked is known only where there is an archive
    for item in refused[:20]:
        print(
            f"refused: {item['calling']}@{item['address']} to {item['called']}, {item['times']} times, "
            f"last {item['last']}: {item[_reason()]}"
        )
    return 0


def device_add(args: argparse.Namespace) -> int:
    """Add a device."""
    device = Device.from_text(args.name, flag_values(args, DEVICE_SETTINGS))
    _devices(args).add(device)
    print(f"added {device.name}: {device.ae_title} at {', '.join(device.hosts)}")
    return 0


def device_remove(args: argparse.Namespace) -> int:
    """Remove a device."""
    _devices(args).remove(args.name)
    print(f"removed {args.name}")
    return 0


def demo(args: argparse.Namespace) -> int:
    """Make phantom studies and send them through the network door."""
    from angiovault import demonstration  # see serve
    from angiovault.dimse.scu import Destination, Limits

    config = _settings(args)
    host = "127.0.0.1" if config.bind in ("0.0.0.0", "::") else config.bind  # noqa: S104
    to = _destination(args, args.to) if args.to else Destination(config.ae_title, host, config.port)
    demonstration.run(to, Limits.of(config), args.seed)
    return 0


def panel(args: argparse.Namespace) -> int:
    """Serve the settings panel."""
    from angiovault.panel import serving  # see serve
    from angiovault.panel.place import Place

    logs.set_up()
    place = Place.of(config_path(args.config))
    try:
        if args.descriptor is not None:
            serving.serve_inherited(place, args.descriptor)
        elif args.socket:
            serving.serve_socket(place, args.socket)
        else:
            serving.serve_loopback(place, args.port)
    except serving.CannotServe as error:
        raise CommandError(str(error)) from error
    return 0
