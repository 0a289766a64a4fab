"""What `angiovault delete` and `angiovault trash` do."""

from __future__ import annotations

import argparse
import getpass
import os

from angiovault import logs, opening
from angiovault.archive import removing
from angiovault.archive.archive import Archive
from angiovault.archive.trash import NoSuchStudy, StudyChanged, Trash
from angiovault.archive.trash_items import Item, NoSuchItem
from angiovault.commands import CommandError
from angiovault.config import Config


def _archive(args: argparse.Namespace) -> Archive:
    config: Config = args.settings
    logs.set_up(config.log_level, config.log_file)
    return opening.open_archive(config)


def _user() -> str:
    """Return who types: on a NAS the commands run as the package's own user."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def _confirm(word: str, question: str) -> None:
    try:
        answer = input(f"{question} Type {word} to go on: ")
    except EOFError:
        answer = ""
    if answer.strip() != word:
        raise CommandError("nothing was done")


def delete(args: argparse.Namespace) -> int:
    """Put studies into the trash."""
    archive = _archive(args)
    index = archive.ready_index()
    studies = []
    for uid in dict.fromkeys(args.uids):
        study = removing.study(index, uid)
        if study is None:
            raise CommandError(f"the archive holds no study {uid}")
        print(
            f"{uid}: {study.patient_name or '-'}, ID {study.patient_id or '-'}, {study.study_date or 'undated'}, "
            f"{study.description or '-'}: {len(study.places)} files, {study.size / 1e6:.1f} MB"
        )
        studies.append(study)
    if not args.yes:
        _confirm("delete", "All of this goes into the trash.")
    for study in studies:
        try:
            item = Trash(archive).delete(study.uid, _user(), len(study.places))
        except (NoSuchStudy, StudyChanged) as error:
            raise CommandError(str(error)) from error
        print(f"{study.uid} is in the trash: angiovault trash restore {item.id} puts it back")
    return 0


def listed(args: argparse.Namespace) -> int:
    """List the deleted studies."""
    items = Trash(_archive(args)).items()
    for item in items:
        print(_line(item))
    print(f"{len(items)} studies, {sum(item.size for item in items) / 1e9:.2f} GB")
    return 0


def _line(item: Item) -> str:
    return (
        f"{item.id}: {item.patient_name or '-'}, ID {item.patient_id or '-'}, {item.study_date or 'undated'}, "
        f"{item.description or '-'}: {item.files} files, {item.size / 1e6:.1f} MB; study {item.study_uid}, "
        f"{item.state} {item.deleted[:19]}Z by {item.by}"
    )


def restore(args: argparse.Namespace) -> int:
    """Put a deleted study back."""
    try:
        item = Trash(_archive(args)).restore(args.id)
    except NoSuchItem as error:
        raise CommandError(str(error)) from error
    print(f"{item.study_uid} is back: {item.files} files")
    return 0


def empty(args: argparse.Namespace) -> int:
    """Remove deleted studies for good."""
    trash = Trash(_archive(args))
    try:
        items = [trash.item(args.id)] if args.id else trash.items()
    except NoSuchItem as error:
        raise CommandError(str(error)) from error
    for item in items:
        print(_line(item))
    if items and not args.yes:
        _confirm("remove", "This is removed for good.")
    size = sum(trash.empty(item.id).size for item in items)
    print(f"{len(items)} studies removed, {size / 1e9:.2f} GB")
    return 0
