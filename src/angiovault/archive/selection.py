"""Which instances a retrieval, a commitment or an export means: current versions, by the unique keys of a level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from angiovault.archive import names
from angiovault.archive.index import Index
from angiovault.archive.models import Folder, Instance, Patient, Series, Study, StudyPerson

_BATCH: Final = 500


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
    longest = max(
        (selection.instance_uids, selection.series_uids, selection.study_uids, selection.patient_ids), key=len
    )
    found: list[StoredInstance] = []
    with index.session():
        for batch in _batches(longest):
            query = (
                Instance.select(*_COLUMNS)
                .join(Folder, on=(Folder.id == Instance.folder_id))
                .join(Series, on=(Series.id == Instance.series_id))
                .join(Study, on=(Study.id == Series.study_id))
                .where(Instance.current == 1)
            )
            for column, uids in (
                (Study.uid, selection.study_uids),
                (Series.uid, selection.series_uids),
                (Instance.uid, selection.instance_uids),
            ):
                if uids:
                    query = query.where(column.in_(batch if uids is longest else list(uids)))
            if selection.patient_ids:
                wanted = batch if selection.patient_ids is longest else selection.patient_ids
                keys = [names.fold(patient_id) for patient_id in wanted]
                query = query.where(
                    Study.id.in_(
                        StudyPerson.select(StudyPerson.study_id)
                        .join(Patient, on=(Patient.id == StudyPerson.patient_id))
                        .where(Patient.patient_id.in_(keys))
                    )
                )
            query = query.order_by(Study.id, Series.series_number, Series.id, Instance.instance_number, Instance.id)
            found.extend(_stored(row) for row in query.tuples())
    return list(dict.fromkeys(found))


def versions(index: Index, sop_instance_uid: str) -> list[StoredInstance]:
    """Return every kept version of a SOP instance, the first received first."""
    with index.session():
        query = (
            Instance.select(*_COLUMNS)
            .join(Folder, on=(Folder.id == Instance.folder_id))
            .where(Instance.uid == sop_instance_uid)
            .order_by(Instance.version)
        )
        return [_stored(row) for row in query.tuples()]


def conflicts(index: Index) -> list[str]:
    """Return the SOP Instance UIDs of which more than one content is kept."""
    with index.session():
        query = Instance.select(Instance.uid).where(Instance.version > 1).distinct().order_by(Instance.uid)
        return [uid for (uid,) in query.tuples()]


def _batches(values: Sequence[str]) -> Iterator[list[str]]:
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
