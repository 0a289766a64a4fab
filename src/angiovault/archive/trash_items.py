"""What lies in the trash: a folder for each deleted study, with what it is, where its files belong, and the files."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final

from angiovault import jsonfile
from angiovault.archive.durable import fsync_directory, make_folder, replace_file
from angiovault.archive.incoming import now
from angiovault.archive.removing import KeptStudy
from angiovault.archive.store import StorageError, Store, as_storage_error

DELETING: Final = "deleting"
DELETED: Final = "deleted"
RESTORING: Final = "restoring"
EMPTYING: Final = "emptying"

_ID: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
_MANIFEST: Final = "manifest.json"
_LIST: Final = "files.json"
_FILES: Final = "files"
TRASH: Final = "trash"


class NoSuchItem(LookupError):
    """The trash holds nothing under this id."""


@dataclass(frozen=True, slots=True)
class Item:
    """A deleted study.

    Attributes
    ----------
    id : str
        The name of its folder.
    state : str
        `DELETED`, or what was begun and not finished.
    deleted, by : str
        When (ISO 8601, UTC) and by whom.
    instances, files, size : int
        SOP Instance UIDs, files (one for each version of an instance), bytes of their data sets.
    """

    id: str
    state: str
    study_uid: str
    patient_name: str
    patient_id: str
    study_date: str
    description: str
    modalities: str
    instances: int
    files: int
    size: int
    deleted: str
    by: str


class Items:
    """The items in the folder of the trash.

    Parameters
    ----------
    store : Store
        The storage. The manifests are in its first folder, files in that in which they lay.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.private / TRASH

    def folders(self) -> list[Path]:
        """Return the folders of all items, whatever their state.

        Raises
        ------
        StorageError
            When they cannot be listed.
        """
        with as_storage_error("cannot read the trash"):
            try:
                return [entry for entry in self._folder.iterdir() if _ID.fullmatch(entry.name)]
            except FileNotFoundError:
                return []

    def get(self, number: str) -> Item:
        """Return an item.

        Raises
        ------
        NoSuchItem
            When there is none under this id.
        StorageError
            When its manifest cannot be read.
        """
        said = jsonfile.read(self._folder / number / _MANIFEST) if _ID.fullmatch(number) else {}
        if not said:
            raise NoSuchItem(f"the trash holds nothing under {number!r}")
        try:
            return Item(**said)
        except TypeError:
            raise StorageError(f"the manifest of {number} in the trash cannot be read") from None

    def add(
        self, study: KeptStudy, by: str, places: Sequence[PurePosixPath], choices: Mapping[str, str]
    ) -> Item:
        """Make an item in the state `DELETING`, durably; its files have yet to be moved.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        item = Item(
            id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
            state=DELETING,
            study_uid=study.uid,
            patient_name=study.patient_name,
            patient_id=study.patient_id,
            study_date=study.study_date,
            description=study.description,
            modalities=study.modalities,
            instances=len(study.instance_uids),
            files=len(study.places),
            size=study.size,
            deleted=now(),
            by=by,
        )
        listed = {"places": [str(place) for place in places], "choices": dict(choices)}
        with as_storage_error("cannot write to the trash"):
            make_folder(self._folder / item.id)
            replace_file(self._folder / item.id / _LIST, json.dumps(listed, ensure_ascii=False))
        self.note(item)
        return item

    def note(self, item: Item) -> None:
        """Write an item's manifest durably.

        Raises
        ------
        StorageError
            When it cannot be written.
        """
        with as_storage_error("cannot write to the trash"):
            replace_file(self._folder / item.id / _MANIFEST, json.dumps(asdict(item), ensure_ascii=False))

    def path(self, item: Item, place: PurePosixPath) -> Path:
        """Return where the file of a place lies in the trash: on the same volume."""
        return self._store.private_path(place, TRASH, item.id, _FILES)

    def trees(self, number: str) -> list[Path]:
        """Return the folders, one in each folder of the storage, in which an item's files lie as they did there."""
        return [folder.private / TRASH / number / _FILES for folder in self._store.folders]

    def places(self, item: Item) -> list[PurePosixPath]:
        """Return where an item's files belong, relative to the storage root, the first received first.

        Raises
        ------
        StorageError
            When that cannot be read.
        """
        found = jsonfile.read(self._folder / item.id / _LIST).get("places")
        places = [PurePosixPath(text) for text in found] if isinstance(found, list) else []
        if not places or any(place.is_absolute() or ".." in place.parts for place in places):
            raise StorageError(f"the list of files of {item.id} in the trash is damaged")
        return places

    def choices(self, item: Item) -> dict[str, str]:
        """Return the choices between versions that were made when it was deleted: SOP Instance UID -> content."""
        found = jsonfile.read(self._folder / item.id / _LIST).get("choices", {})
        return {str(uid): str(content) for uid, content in found.items()}

    def remove(self, number: str) -> None:
        """Remove an item that has no files any more.

        Raises
        ------
        StorageError
            When there is a file left, or it cannot be removed.
        """
        folder = self._folder / number
        with as_storage_error(f"cannot remove {number} from the trash"):
            for tree in self.trees(number):
                _remove_empty_tree(tree)
                if tree.parent != folder and tree.parent.exists():
                    tree.parent.rmdir()
                    fsync_directory(tree.parent.parent)
            for name in (_MANIFEST, _LIST):
                (folder / name).unlink(missing_ok=True)
                (folder / f"{name}.new").unlink(missing_ok=True)
            folder.rmdir()
            fsync_directory(self._folder)


def _remove_empty_tree(folder: Path) -> None:
    """Remove a folder with the folders below it; a file in it is an `OSError`."""
    if folder.exists():
        for below in list(folder.iterdir()):
            _remove_empty_tree(below)
        folder.rmdir()
