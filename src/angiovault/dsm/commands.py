"""`angiovault dsm …`: what the package's scripts call, and what an administrator types on a NAS.

Every command but the supervisor's is loaded when it is called, so that the supervisor stays small.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from angiovault.dsm import running, supervisor
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import Problem, Text, language_of
from angiovault.inifile import ConfigError
from angiovault.reloading import Loading

PARTLY = 3
"""Exit code when some of the work could not be done."""


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="angiovault dsm",
        description="AngioVault on a Synology NAS.",
        epilog="Passwords are asked for on the terminal, or read from the first line of standard input.",
    )
    actions = top.add_subparsers(metavar="COMMAND", required=True)
    _command(actions, "supervise", _supervise, "run the service and keep it running (the package's start script)")
    _command(actions, "install", _install, "write the settings that the wizard was told (the package's postinst)")
    _command(actions, "uninstall", _uninstall, "remove what the wizard was told to (the package's preuninst)")
    show = _command(actions, "show", _show, "print one value")
    show.add_argument("value", choices=("port", "ae-title", "storage", "state"))
    state = _command(actions, "state", _state, "show how the package is, and what is to be done")
    state.add_argument("--json", action="store_true", help="for programs")
    _command(actions, "create-database", _create_database, "make the database with the password of MariaDB's root")
    use = _command(actions, "use-database", _use_database, "use a database of MariaDB that is there already, or none")
    use.add_argument("--embedded", action="store_true", help="no MariaDB: keep the index in a file beside the images")
    use.add_argument("--user", metavar="U", help="account")
    use.add_argument("--database", metavar="D", help="database")
    use.add_argument("--socket", metavar="S", type=Path, help="socket; default: that of the package MariaDB 10")
    change = _command(actions, "set", _set, "change the AE title or the port")
    change.add_argument("--ae-title", metavar="AET", help="the archive's own AE title")
    change.add_argument("--port", metavar="N", help="TCP port for DICOM")
    folder = _command(actions, "use-folder", _use_folder, "keep the images in another shared folder")
    folder.add_argument("path", metavar="PATH", type=Path, nargs="?", help="the folder, such as /volume2/angiography")
    second = folder.add_mutually_exclusive_group()
    second.add_argument("--second", metavar="PATH", type=Path, help="continue in this one when the first is full")
    second.add_argument("--no-second", action="store_true", help="do not continue in a second one; it must be empty")
    _command(actions, "backup-settings", _backup_settings, "copy the settings, without passwords, beside the images")
    _command(actions, "restore", _restore, "after a loss: settings, database and index from the shared folder")
    return top


_Run = Callable[[Nas, argparse.Namespace], int]


def _command(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: _Run, text: str
) -> argparse.ArgumentParser:
    command = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def main(arguments: Sequence[str], nas: Nas | None = None) -> int:
    """Run a command and return its exit code; `nas` is this machine unless a test says otherwise."""
    args = _parser().parse_args(arguments)
    nas = nas or Nas()
    try:
        if not nas.is_synology:
            raise Problem("not_synology", folder=nas.etc)
        _become_package_user(nas)
        if nas.user:
            os.chdir("/")  # where root was, the package's user may not be
        run: _Run = args.run
        return run(nas, args)
    except Problem as problem:
        return _fail(problem.text.in_language(_language()))
    except (ConfigError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def general(arguments: Sequence[str]) -> int:
    """Run a command that is not Synology's, such as `angiovault import`, as the package's user."""
    try:
        _become_package_user(Nas())
    except Problem as problem:
        return _fail(problem.text.in_language(_language()))
    from angiovault.cli import main as cli

    return cli(arguments)


def _language() -> int:
    return language_of(os.environ.get("SYNOPKG_DSM_LANGUAGE", ""))


def _say(text: Text) -> None:
    sys.stdout.write(f"{text.in_language(_language())}\n")
    sys.stdout.flush()


def _fail(reason: str) -> int:
    sys.stderr.write(f"angiovault: {reason}\n")
    return 1


def _become_package_user(nas: Nas) -> None:
    """Give up root: what root made in the shared folder or in the settings, the service could not use.

    Anybody else would be told that nothing is there, since it is not to be read.
    """
    if not nas.user:
        return
    try:
        user = pwd.getpwnam(nas.user)
    except KeyError:
        raise Problem("no_user", user=nas.user) from None
    if os.geteuid() == user.pw_uid:
        return
    if os.geteuid() != 0:
        raise Problem("not_root")
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _password(prompt: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    return sys.stdin.readline().rstrip("\r\n")


def _begin_anew(nas: Nas) -> None:
    """Have the service begin anew with what has changed below it."""
    if running.restart(nas):
        _say(Text("applied"))


# ---- the package's scripts


def _supervise(nas: Nas, _args: argparse.Namespace) -> int:
    return supervisor.supervise(nas)


def _install(nas: Nas, _args: argparse.Namespace) -> int:
    from angiovault.dsm import installing

    return installing.install(nas, os.environ, _say)


def _uninstall(nas: Nas, _args: argparse.Namespace) -> int:
    from angiovault.dsm import installing

    return installing.uninstall(nas, os.environ, _say)


# ---- looking


def _show(nas: Nas, args: argparse.Namespace) -> int:
    from angiovault.dsm import settings

    if args.value == "state":
        value = str(running.state(nas)["state"])
    else:
        known = settings.read(nas)
        value = {
            "port": str(known.config.port),
            "ae-title": known.config.ae_title,
            "storage": str(known.storage or ""),
        }[args.value]
    sys.stdout.write(f"{value}\n")
    return 0


def _state(nas: Nas, args: argparse.Namespace) -> int:
    found = _everything(nas)
    if args.json:
        sys.stdout.write(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
        return 0
    lines = [f"state     {found['state']}: {found['message_zh' if _language() else 'message']}"]
    names = ("ae_title", "port", "storage", "second", "index")
    lines += [f"{name:9} {found[name]}" for name in names if found.get(name)]
    lines += [f"problem   {name}: {text}" for name, text in found["problems"].items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _everything(nas: Nas) -> dict[str, Any]:
    from angiovault.dsm import settings

    said = running.state(nas)
    text = Text(str(said["state"])) if said["state"] in ("stopped", "starting") else None
    found: dict[str, Any] = {
        "message": str(text) if text else "",
        "message_zh": text.in_language(1) if text else "",
        "problems": {},
        **said,
    }
    try:
        known = settings.read(nas)
        found |= {
            "ae_title": known.config.ae_title,
            "port": known.config.port,
            "storage": str(known.storage or ""),
            "second": str(known.config.second_storage or ""),
            "archive_id": known.config.archive_id,
            "index": known.config.index_url.redacted(),
        }
    except ConfigError as error:
        found["problems"] = {"settings": str(error)}
    health = running.health(nas)
    refused = Loading.of(health).problem
    if refused:
        found["problems"]["settings"] = refused["text"]
    found["problems"] |= health.get("problems", {})
    return found


# ---- database, folder, copy


def _create_database(nas: Nas, _args: argparse.Namespace) -> int:
    from angiovault.dsm import database

    database.set_up(nas, _password("Password of MariaDB's root: "), _say)
    _begin_anew(nas)
    return 0


def _use_database(nas: Nas, args: argparse.Namespace) -> int:
    from angiovault.dsm import database, mariadb

    if args.embedded:
        database.use_embedded(nas)
        _say(Text("database_embedded"))
    elif args.user and args.database:
        password = _password(f"Password of {args.user}: ")
        if not password:
            raise Problem("password_missing")
        account = mariadb.Account(args.socket or nas.socket, args.user, password, args.database)
        mariadb.check(nas, account)
        database.use_account(nas, account)
        _say(Text("database_ready", database=account.database))
    else:
        sys.stderr.write("angiovault dsm use-database: give --user and --database, or --embedded\n")
        return 2
    _begin_anew(nas)
    return 0


def _set(nas: Nas, args: argparse.Namespace) -> int:
    from angiovault import config

    changes = {name: text for name, text in (("ae-title", args.ae_title), ("port", args.port)) if text is not None}
    if not changes:
        sys.stderr.write("angiovault dsm set: give --ae-title, --port or both\n")
        return 2
    config.save(nas.settings, changes)
    if running.reload(nas):
        problem = Loading.of(running.health(nas)).problem
        if problem:
            return _fail(Text("not_applied", reason=problem["text"]).in_language(_language()))
        _say(Text("applied"))
    return 0


def _use_folder(nas: Nas, args: argparse.Namespace) -> int:
    from angiovault.dsm import folders

    if args.path is None and args.second is None and not args.no_second:
        sys.stderr.write("angiovault dsm use-folder: give a folder, --second PATH or --no-second\n")
        return 2
    if args.path is not None:
        _say(Text("folder_used", storage=folders.use_folder(nas, args.path).storage))
    if args.second is not None or args.no_second:
        used = folders.use_second(nas, args.second)
        _say(Text("second_used", storage=used) if used is not None else Text("second_none"))
    _begin_anew(nas)
    return 0


def _backup_settings(nas: Nas, _args: argparse.Namespace) -> int:
    from angiovault.dsm import settings, shares

    known = settings.read(nas)
    place = shares.find(nas, known.storage, known.config.archive_id)
    if place is None:
        raise Problem("no_storage")
    _say(Text("backed_up", file=settings.back_up(nas, place.storage)))
    return 0


def _restore(nas: Nas, _args: argparse.Namespace) -> int:
    from angiovault import logs
    from angiovault.archive.index import IndexUnavailable
    from angiovault.archive.store import StorageError
    from angiovault.dsm import restoring

    logs.set_up("warning")
    try:
        whole = restoring.restore(nas, lambda: _password("Password of MariaDB's root (empty: none): "), _say)
    except (StorageError, IndexUnavailable) as error:
        return _fail(str(error))
    return 0 if whole else PARTLY
