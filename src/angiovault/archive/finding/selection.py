"""Which instances a retrieval, a commitment or an export means, by the unique keys of a level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeVar

from angiovault.archive import names
from angiovault.archive.index import Index
from angiovault.archive.models import Folder, Instance, Patient, Series, Study, StudyPerson

T = TypeVar("T")

_BATCH: Final = 500
"""Values in one statement: SQLite takes a limited number of them."""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One version of a SOP instance as the index knows it; `path` is relative to the storage root."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    digest: str
    size: int
    path: PurePosixPath
    version: int
    content: str
    current: bool
    complete: bool


_COLUMNS: Final = (
    Instance.sop_class,
    Instance.uid,
    Instance.transfer_syntax,
    Instance.digest,
    Instance.size,
    Folder.path,
    Instance.file,
    Instance.version,
    Instance.content,
    Instance.current,
    Instance.complete,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Unique keys of a retrieval (PS3.4 C.4.2.1.4); an empty list leaves its level open."""

    patient_ids: Sequence[str] = ()
    study_uids: Sequence[str] = ()
    series_uids: Sequence[str] = ()
    instance_uids: Sequence[str] = ()


def instances(index: Index, selection: Selection) -> list[StoredInstance]:
    """Return the current instances that a selection means, study by study, in the order of their numbers.

    Raises
    ------
    IndexUnavailable
        When the database is away.
    """
    found: dict[StoredInstance, None] = {}
    with index.session():
        studies = _studies_of(selection.patient_ids) if selection.patient_ids else None
        # The deepest keys choose the rows, those above only have to agree with them.
        column, keys = next(
            (
                (column, keys)
                for column, keys in (
                    (Instance.uid, selection.instance_uids),
                    (Series.uid, selection.series_uids),
                    (Study.uid, selection.study_uids),
                )
                if keys
            ),
            (Study.id, sorted(studies or ())),
        )
        series_uids, study_uids = frozenset(selection.series_uids), frozenset(selection.study_uids)
        for batch in _batches(keys):
            query = (
                Instance.select(Study.id, Study.uid, Series.uid, *_COLUMNS)
                .join(Folder, on=(Folder.id == Instance.folder_id))
                .join(Series, on=(Series.id == Instance.series_id))
                .join(Study, on=(Study.id == Series.study_id))
                .where((Instance.current == 1) & column.in_(batch))
                .order_by(Study.id, Series.series_number, Series.id, Instance.instance_number, Instance.id)
            )
            for study, study_uid, series_uid, *row in query.tuples():
                wanted = (
                    (studies is None or study in studies)
                    and (not study_uids or study_uid in study_uids)
                    and (not series_uids or series_uid in series_uids)
                )
                if wanted:
                    found[_stored(row)] = None
    return list(found)


def _studies_of(patient_ids: Sequence[str]) -> frozenset[int]:
    """Return the row numbers of all studies in which one of the patients was met."""
    studies: set[int] = set()
    for batch in _batches([names.fold(patient_id) for patient_id in patient_ids]):
        query = (
            StudyPerson.select(StudyPerson.study_id)
            .join(Patient, on=(Patient.id == StudyPerson.patient_id))
            .where(Patient.patient_id.in_(batch))
        )
        studies.update(study for (study,) in query.tuples())
    return frozenset(studies)


def versions(index: Index, sop_instance_uid: str) -> list[StoredInstance]:
    """Return every kept version of a SOP instance, the first received first."""
    return versions_of(index, [sop_instance_uid]).get(sop_instance_uid, [])


def versions_of(index: Index, sop_instance_uids: Sequence[str]) -> dict[str, list[StoredInstance]]:
    """Return every kept version of several SOP instances by UID, the first received first."""
    found: dict[str, list[StoredInstance]] = {}
    with index.session():
        for batch in _batches(sop_instance_uids):
            query = (
                Instance.select(*_COLUMNS)
                .join(Folder, on=(Folder.id == Instance.folder_id))
                .where(Instance.uid.in_(batch))
                .order_by(Instance.version)
            )
            for row in query.tuples():
                stored = _stored(row)
                found.setdefault(stored.sop_instance_uid, []).append(stored)
    return found


def conflicts(index: Index) -> list[str]:
    """Return the SOP Instance UIDs of which more than one content is kept."""
    with index.session():
        query = Instance.select(Instance.uid).where(Instance.version > 1).distinct().order_by(Instance.uid)
        return [uid for (uid,) in query.tuples()]


def _batches(values: Sequence[T]) -> Iterator[list[T]]:
    unique = list(dict.fromkeys(values))
    for start in range(0, len(unique), _BATCH):
        yield unique[start : start + _BATCH]


def _stored(row: Iterable[object]) -> StoredInstance:
    sop_class, uid, syntax, digest, size, folder, file, version, content, current, complete = row
    return StoredInstance(
        str(sop_class),
        str(uid),
        str(syntax),
        str(digest),
        int(str(size)),
        PurePosixPath(str(folder), str(file)),
        int(str(version)),
        str(content),
        bool(current),
        bool(complete),
    )
