"""How the archive is: one dictionary for the command line, programs and the panel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from peewee import fn

from angiovault.archive import commitments, refusals
from angiovault.archive.archive import Archive
from angiovault.archive.finding.selection import conflicts
from angiovault.archive.index import Index, IndexUnavailable
from angiovault.archive.models import Instance, Patient, Study
from angiovault.archive.scrubbing import Scrubber
from angiovault.archive.store import StorageError

_PATIENCE: Final = 3.0


def summary(archive: Archive, is_running: Callable[[Archive], bool]) -> dict[str, Any]:
    """Return the state of storage, index, queue and journal of an archive that need not be open; changes nothing.

    ``problem`` is '' when all is well, else what is wrong and what to do.
    """
    found: dict[str, Any] = {
        "running": is_running(archive),
        "storage": "ready",
        "index": "not looked at",
        "free_bytes": None,
        "total_bytes": None,
        "folders": [],
        "journal": 0,
        "set_aside": 0,
        "unsettled": 0,
        "counts": None,
        "commitment": {},
        "commitments_waiting": [],
        "refusals": [],
        "check": {},
        "problem": "",
    }
    problems = list(_look_at_storage(archive, found))
    if not problems:
        problems += _look_at_index(archive, found)
    if found["free_bytes"] is not None and found["free_bytes"] <= 0:
        found["storage"] = "full"
        problems.append("the storage volume is full: nothing can be stored until there is room")
    if found["set_aside"]:
        problems.append(f"{found['set_aside']} acknowledged instances cannot be indexed: see the log")
    if found["unsettled"]:
        problems.append(
            f"{found['unsettled']} acknowledged instances are not in their places yet: start the service or see its log"
        )
    if found["check"].get("damaged"):
        problems.append(f"{len(found['check']['damaged'])} stored files are damaged: see `angiovault verify`")
    found["problem"] = "; ".join(problems)
    return found


def _look_at_storage(archive: Archive, found: dict[str, Any]) -> Iterator[str]:
    """Fill in what the storage tells; yield what is wrong with it."""
    try:
        archive.store.open()
        found["archive_id"] = archive.store.archive_id
        found["free_bytes"], found["total_bytes"] = archive.store.free_bytes()
        found["folders"] = [
            {"path": str(folder.root), "free_bytes": max(0, free), "total_bytes": total}
            for folder in archive.store.folders
            for free, total in [folder.free_bytes()]
        ]
        found["journal"] = len(archive.journals.waiting.entries())
        found["set_aside"] = len(archive.journals.aside.entries())
        found["unsettled"] = archive.wait_for_others(_PATIENCE) + len(list(archive.store.incoming.waiting("dead")))
        found["check"] = Scrubber.read_state(archive)
    except (StorageError, OSError) as error:
        found["storage"] = str(error)
        yield str(error)


def _look_at_index(archive: Archive, found: dict[str, Any]) -> Iterator[str]:
    """Fill in what the index tells; yield what is wrong with it."""
    try:
        archive.index.inspect(archive.store.archive_id)
        found["counts"] = counts(archive.index)
        found["commitment"] = commitments.counts(archive.index)
        found["commitments_waiting"] = commitments.waiting(archive.index)
        found["refusals"] = refusals.listed(archive.index)
        archive.index.require_complete()
        found["index"] = "ready"
    except IndexUnavailable as error:
        found["index"] = str(error)
        yield str(error)


def counts(index: Index) -> dict[str, int]:
    """Return how many patients, studies, series, instances, bytes and conflicts the archive holds."""
    with index.session():
        studies = Study.select(
            fn.COUNT(Study.id),
            fn.COALESCE(fn.SUM(Study.series_count), 0),
            fn.COALESCE(fn.SUM(Study.instance_count), 0),
            fn.COALESCE(fn.SUM(Study.byte_count), 0),
        ).where(Study.instance_count > 0)
        number, series, instances, size = studies.tuples().first()
        return {
            "patients": Patient.select().count(),
            "studies": int(number),
            "series": int(series),
            "instances": int(instances),
            "bytes": int(size),
            "versions": Instance.select().where(Instance.version > 1).count(),
            "conflicts": len(conflicts(index)),
            "studies_with_several_patients": Study.select().where(Study.patients_differ == 1).count(),
        }
