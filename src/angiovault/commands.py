"""What each command of `angiovault` does; the command line itself is read in `cli`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from angiovault import logs, service
from angiovault.archive import choices, refusals, reindexing, verifying
from angiovault.archive.archive import Archive
from angiovault.archive.conversion.converter import Converter
from angiovault.archive.finding.selection import StoredInstance, versions
from angiovault.archive.finding.selection import conflicts as conflicting
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.archive.summary import summary
from angiovault.config import Config, config_path, flag_values
from angiovault.devices import DEVICE_SETTINGS, Device, DeviceBook
from angiovault.dimse import retrieve, scu
from angiovault.kinds import read_ae_title
from angiovault.progress import Progress

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


def _limits(config: Config) -> scu.Limits:
    return scu.Limits(config.ae_title, config.max_pdu, config.network_timeout)


def serve(args: argparse.Namespace) -> int:
    """Run the archive."""
    service.serve(_settings(args), config_path(args.config))
    return 0


def import_files(args: argparse.Namespace) -> int:
    """Take in files."""
    from angiovault.archive.exchange import importing  # `serve` starts faster without what only one command needs

    archive = service.open_archive(_settings(args), create=True)
    counts: dict[str, int] = {}
    with Progress("import", importing.count_files(args.paths)) as progress:
        for item in importing.import_paths(archive, args.paths, args.move):
            counts[item.outcome] = counts.get(item.outcome, 0) + 1
            if item.reason and item.outcome not in ("skipped", "done before"):
                progress.say(f"{item.outcome}: {item.source}: {item.reason}")
            progress.advance(1, item.size)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "nothing found")
    return PARTLY if counts.get("failed") else 0


def reindex(args: argparse.Namespace) -> int:
    """Rebuild the index."""
    config = _settings(args)
    if args.second_folder_is_lost:
        service.archive_of(config).store.give_up_second()
    archive = service.open_archive(config)
    failed = 0
    with Progress("reindex") as progress:
        for item in reindexing.reindex(archive):
            if item.problem:
                failed += 1
                progress.say(f"{item.place}: {item.problem}")
            progress.advance(1, item.size)
    print(f"{progress.items - failed} instances indexed" + (f", {failed} files could not be" if failed else ""))
    return PARTLY if failed else 0


def verify(args: argparse.Namespace) -> int:
    """Check every stored file."""
    config = _settings(args)
    archive = service.archive_of(config)
    archive.store.open(archive.store.read_marker())
    damaged = 0
    with Progress("verify") as progress:
        for finding in verifying.verify(archive.store, args.rate):
            if finding.problem:
                damaged += 1
                progress.say(f"damaged: {finding.place}: {finding.problem}")
            progress.advance(1, finding.size)
    missing = _report_missing(archive)
    print(f"{progress.items - damaged} files are sound, {damaged} damaged, {missing} missing")
    return PARTLY if damaged or missing else 0


def _report_missing(archive: Archive) -> int:
    count = 0
    try:
        archive.index.open(archive.store.archive_id)
        for place in verifying.missing_files(archive.store, archive.index):
            print(f"missing: {place}")
            count += 1
    except IndexUnavailable as error:
        print(f"what is missing cannot be told: {error}", file=sys.stderr)
    return count


def status(args: argparse.Namespace) -> int:
    """Show whether the archive is well."""
    config = _settings(args)
    found = summary(service.archive_of(config), service.is_running)
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
        f"last {item['last']}: {item['reason']}"
        for item in found["refusals"][:10]
    ]
    if found["problem"]:
        lines.append(f"PROBLEM      {found['problem']}")
    return lines


def _folder_lines(folders: list[dict[str, Any]]) -> list[str]:
    """Return a line for each of two folders; of a single one all has been said."""
    if len(folders) < 2:
        return []
    return [f"             {folder['path']}: {folder['free_bytes'] / 1e9:.1f} GB" for folder in folders]


def _destination(args: argparse.Namespace, text: str) -> scu.Destination:
    match = re.fullmatch(r"(.+)@(\[[0-9a-fA-F:.]+\]|[^@:]+):([0-9]{1,5})", text)
    if match:
        return scu.Destination(read_ae_title(match[1]), match[2].strip("[]"), int(match[3]))
    device = _devices(args).by_name(text)
    if device is None:
        raise CommandError(f"{text!r} is no configured device and not of the form AET@HOST:PORT")
    return scu.Destination.of(device)


def echo(args: argparse.Namespace) -> int:
    """Ask a device whether it is there."""
    destination = _destination(args, args.device)
    scu.echo(destination, _limits(_settings(args)))
    print(f"{destination} is there")
    return 0


def _find(archive: Archive, uids: list[str]) -> list[StoredInstance]:
    from angiovault.archive.exchange import exporting  # see import_files

    try:
        return exporting.find(archive, uids)
    except exporting.NothingFound as error:
        raise CommandError(str(error)) from error


def send(args: argparse.Namespace) -> int:
    """Send instances to a device."""
    config = _settings(args)
    destination = _destination(args, args.device)
    archive = service.open_archive(config)
    wanted = _find(archive, args.uids)
    counts = retrieve.Progress(len(wanted))
    with Converter(archive.store.private / "incoming") as converter, Progress("send", len(wanted)) as progress:
        services = retrieve.Services(archive, _devices(args), converter, _limits(config))
        for problem in retrieve.send(destination, wanted, services, counts, {}):
            if problem:
                progress.say(problem)
            progress.advance()
    print(f"{counts.completed + counts.warning} of {len(wanted)} instances sent to {destination}")
    return PARTLY if counts.failed else 0


def export(args: argparse.Namespace) -> int:
    """Copy instances out as files."""
    from angiovault.archive.exchange import exporting  # see import_files

    archive = service.open_archive(_settings(args))
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
    archive = service.open_archive(_settings(args))
    index = archive.ready_index()
    if args.choose:
        uid, _, content = args.choose.partition("=")
        try:
            index.choose(content, uid)
        except LookupError as error:
            raise CommandError(str(error)) from error
        choices.Choices(archive.store).add(uid, content)
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
        archive = service.open_archive(config)
        refused = refusals.listed(archive.ready_index())
    except (StorageError, IndexUnavailable):
        return 0  # the devices are in the configuration; who knocked is known only where there is an archive
    for item in refused[:20]:
        print(
            f"refused: {item['calling']}@{item['address']} to {item['called']}, {item['times']} times, "
            f"last {item['last']}: {item['reason']}"
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
    from angiovault import demonstration  # see import_files

    config = _settings(args)
    host = "127.0.0.1" if config.bind in ("0.0.0.0", "::") else config.bind  # noqa: S104
    to = _destination(args, args.to) if args.to else scu.Destination(config.ae_title, host, config.port)
    demonstration.run(to, _limits(config), args.seed)
    return 0


def panel(args: argparse.Namespace) -> int:
    """Serve the settings panel."""
    from angiovault.panel import serving  # see import_files
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
