"""Taking a study's rows out of the index, so that nothing of it is left there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeVar

from angiovault.archive import names
from angiovault.archive.adding import digest_of_folder
from angiovault.archive.elements import SPECIFIC_CHARACTER_SET, EncodingError, decode
from angiovault.archive.index import Index
from angiovault.archive.models import Folder, Instance, Patient, PatientName, Series, Study, StudyPerson

T = TypeVar("T")

_BATCH: Final = 500
_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_STUDY_DESCRIPTION: Final = 0x00081030


@dataclass(frozen=True, slots=True)
class KeptStudy:
    """What the index knows of a study, all versions of its instances included.

    Attributes
    ----------
    places : tuple of PurePosixPath
        Where its files lie below the storage root, the first received first.
    instance_uids : frozenset of str
        The SOP Instance UIDs.
    size : int
        Bytes of all its data sets.
    """

    uid: str
    patient_name: str
    patient_id: str
    study_date: str
    description: str
    modalities: str
    places: tuple[PurePosixPath, ...]
    instance_uids: frozenset[str]
    size: int


def study(index: Index, uid: str) -> KeptStudy | None:
    """Return what the index knows of a study, None when it knows none of this Study Instance UID.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    with index.session():
        row = Study.select().where(Study.uid == uid).first()
        if row is None:
            return None
        query = (
            Instance.select(Instance.uid, Instance.size, Folder.path, Instance.file)
            .join(Series, on=(Series.id == Instance.series_id))
            .join(Folder, on=(Folder.id == Instance.folder_id))
            .where(Series.study_id == row.id)
            .order_by(Instance.received, Instance.id)
        )
        files = list(query.tuples())
    try:
        head = decode(row.head)
    except EncodingError:  # a damaged row can be deleted like any other
        head = {}
    label = head.get(SPECIFIC_CHARACTER_SET, ("CS", b""))[1]
    name, number, description = (
        names.decode(head.get(tag, ("", b""))[1], label).strip(" \0")
        for tag in (_PATIENT_NAME, _PATIENT_ID, _STUDY_DESCRIPTION)
    )
    return KeptStudy(
        uid,
        name,
        number,
        str(row.study_date),
        description,
        str(row.modalities),
        tuple(PurePosixPath(folder, file) for _, _, folder, file in files),
        frozenset(sop for sop, _, _, _ in files),
        sum(size for _, size, _, _ in files),
    )


def remove_study(index: Index, uid: str) -> None:
    """Remove a study with all it has in the index, in one transaction, durable on return.

    Patients who have no other study go as well. Versions of its instances that lie in other studies move up: the first
    of them becomes the current one. The rows of folders stay, see `forget_folders`.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    with index.session(), index.transaction():
        row = Study.select(Study.id).where(Study.uid == uid).tuples().first()
        if row is not None:
            _remove(index, int(row[0]))
    index.sync()


def _remove(index: Index, number: int) -> None:
    series = [found for (found,) in Series.select(Series.id).where(Series.study_id == number).tuples()]
    uids: set[str] = set()
    for batch in _batches(series):
        uids.update(found for (found,) in Instance.select(Instance.uid).where(Instance.series_id.in_(batch)).tuples())
        Instance.delete().where(Instance.series_id.in_(batch)).execute()
        Series.delete().where(Series.id.in_(batch)).execute()
    people = StudyPerson.select(StudyPerson.patient_id).where(StudyPerson.study_id == number)
    patients = [found for (found,) in people.tuples()]
    StudyPerson.delete().where(StudyPerson.study_id == number).execute()
    Study.delete().where(Study.id == number).execute()
    for patient in patients:
        if not StudyPerson.select().where(StudyPerson.patient_id == patient).exists():
            PatientName.delete().where(PatientName.patient_id == patient).execute()
            Patient.delete().where(Patient.id == patient).execute()
    _move_up(index, uids)


def _move_up(index: Index, uids: Iterable[str]) -> None:
    """Close the gaps in the numbers of versions that are left of instances, and see that one of each is current."""
    left: dict[str, list[Instance]] = {}
    for batch in _batches(sorted(uids)):
        for row in Instance.select().where(Instance.uid.in_(batch)).order_by(Instance.uid, Instance.version):
            left.setdefault(row.uid, []).append(row)
    touched = set()
    for rows in left.values():
        for version, row in enumerate(rows, start=1):
            Instance.update(version=version).where(Instance.id == row.id).execute()
        if not any(row.current for row in rows):
            Instance.update(current=1).where(Instance.id == rows[0].id).execute()
            touched.add(rows[0].series_id)
    for number in sorted(touched):
        index.recount(number)


def forget_folders(index: Index, paths: Iterable[PurePosixPath]) -> None:
    """Remove the rows of folders in which nothing is left.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    with index.session(), index.transaction():
        for path in paths:
            Folder.delete().where(Folder.digest == digest_of_folder(str(path))).execute()


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
