"""The command `angiovault`: what a person or a start script types."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from angiovault import __version__, commands, trash_commands
from angiovault.archive.index import IndexUnavailable, SchemaTooNew, WrongArchive
from angiovault.archive.store import StorageError
from angiovault.config import SETTINGS, add_flags, flag_values, load
from angiovault.devices import DEVICE_SETTINGS
from angiovault.dimse.endings import AssociationEnded, CannotAssociate
from angiovault.inifile import ConfigError
from angiovault.opening import StartError

_PLACE = tuple(row for row in SETTINGS if row.name in ("storage", "index"))
_PROBLEMS = (
    ConfigError,
    StartError,
    StorageError,
    IndexUnavailable,
    SchemaTooNew,
    WrongArchive,
    CannotAssociate,
    AssociationEnded,
    commands.CommandError,
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="angiovault",
        description="A DICOM archive (PACS) for the angiography suite.",
        epilog="Exit codes: 0 done; 1 it did not work, and the message says why; 2 wrong usage; 3 partly done.",
    )
    top.add_argument("--version", action="version", version=f"AngioVault {__version__}")
    actions = top.add_subparsers(metavar="COMMAND", required=True)

    serve = _command(actions, "serve", commands.serve, "run the archive until it is told to stop")
    add_flags(serve, [row for row in SETTINGS if row not in _PLACE])

    taking = _command(actions, "import", commands.import_files, "take in files, folders, a DICOMDIR or a ZIP file")
    taking.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="what to take in")
    taking.add_argument("--move", action="store_true", help="remove each source file once it is safe in the archive")

    reindex = _command(actions, "reindex", commands.reindex, "rebuild the index from the files")
    lost = "go on without the second folder and the images in it; only when it is not there any more"
    reindex.add_argument("--second-folder-is-lost", action="store_true", help=lost)

    verify = _command(actions, "verify", commands.verify, "read every stored file again and check its digest")
    verify.add_argument("--rate", type=float, default=0, metavar="MB/S", help="read at most this fast")

    status = _command(actions, "status", commands.status, "show whether the archive is well")
    status.add_argument("--json", action="store_true", help="for programs")

    echo = _command(actions, "echo", commands.echo, "ask a device whether it is there (C-ECHO)")
    echo.add_argument("device", metavar="DEVICE|AET@HOST:PORT")

    send = _command(actions, "send", commands.send, "send studies, series or instances to a device (C-STORE)")
    send.add_argument("device", metavar="DEVICE|AET@HOST:PORT")
    send.add_argument("uids", nargs="+", metavar="UID", help="Study, Series or SOP Instance UID")

    export = _command(actions, "export", commands.export, "copy studies, series or instances out as files")
    export.add_argument("uids", nargs="+", metavar="UID", help="Study, Series or SOP Instance UID")
    export.add_argument("--to", required=True, type=Path, metavar="DIR", help="folder to write to")
    export.add_argument("--dicomdir", action="store_true", help="with a DICOMDIR, as on a CD")
    export.add_argument("--zip", action="store_true", help="as one ZIP file")

    conflicts = _command(
        actions, "conflicts", commands.conflicts, "list instances that came with several contents, choose one"
    )
    conflicts.add_argument("--choose", metavar="UID=CONTENT", help="make this version of an instance the current one")

    deleting = _command(actions, "delete", trash_commands.delete, "put studies into the trash")
    deleting.add_argument("uids", nargs="+", metavar="UID", help="Study Instance UID")
    deleting.add_argument("--yes", action="store_true", help="do not ask")

    trash = actions.add_parser("trash", help="list, restore and remove deleted studies", description="The trash.")
    trash_actions = trash.add_subparsers(metavar="ACTION", required=True)
    _command(trash_actions, "list", trash_commands.listed, "list the deleted studies")
    restoring = _command(trash_actions, "restore", trash_commands.restore, "put a deleted study back")
    restoring.add_argument("id", metavar="ID", help="as `trash list` shows it")
    emptying = _command(trash_actions, "empty", trash_commands.empty, "remove deleted studies for good")
    emptying.add_argument("id", nargs="?", metavar="ID", help="as `trash list` shows it; without it, all of them")
    emptying.add_argument("--yes", action="store_true", help="do not ask")

    device = actions.add_parser("device", help="list, add and remove devices", description="The configured devices.")
    device_actions = device.add_subparsers(metavar="ACTION", required=True)
    _command(device_actions, "list", commands.device_list, "list the devices, and who was refused lately")
    adding = _command(device_actions, "add", commands.device_add, "add a device")
    adding.add_argument("name", metavar="NAME")
    add_flags(adding, DEVICE_SETTINGS)
    removing = _command(device_actions, "remove", commands.device_remove, "remove a device")
    removing.add_argument("name", metavar="NAME")

    demo = _command(actions, "demo", commands.demo, "make phantom studies and send them to the running archive")
    demo.add_argument("--to", metavar="AET@HOST:PORT", help="where to send them; default: the archive of the settings")
    demo.add_argument("--seed", type=int, default=1, metavar="N", help="another number makes other studies")

    panel = actions.add_parser("panel", help="serve the settings panel", description="Serve the settings panel.")
    panel.add_argument("--config", type=Path, metavar="FILE", help="configuration file")
    where = panel.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=0, metavar="N", help="port of 127.0.0.1; default: any free one")
    where.add_argument("--socket", type=Path, metavar="PATH", help="UNIX socket for DSM's web server")
    where.add_argument("--descriptor", type=int, metavar="N", help="a socket that the supervisor holds")
    panel.set_defaults(run=commands.panel)

    actions.add_parser("dsm", help="on a Synology NAS: set up, show, restore", add_help=False)  # see main
    return top


def _command(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    command = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.add_argument("--config", type=Path, metavar="FILE", help="configuration file")
    add_flags(command, _PLACE)
    command.set_defaults(run=run)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["dsm"]:
        from angiovault.dsm import commands as dsm  # no other command needs what is Synology's

        return dsm.main(arguments[1:])
    args = parser().parse_args(arguments)
    try:
        if args.run is not commands.panel:  # it is there to mend settings that cannot be loaded
            args.settings = load(args.config, flag_values(args))
        return int(args.run(args))
    except _PROBLEMS as problem:
        print(f"angiovault: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
