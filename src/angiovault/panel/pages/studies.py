"""The studies: found, opened, sent, exported, deleted into the trash, and what lies in there."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from angiovault.archive import names, removing
from angiovault.archive.archive import Archive
from angiovault.archive.exchange import exporting, streaming
from angiovault.archive.finding import listing
from angiovault.archive.header import is_uid
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.archive.trash import NoSuchStudy, StudyChanged, Trash, finish_interrupted
from angiovault.archive.trash_items import Item, NoSuchItem
from angiovault.inifile import ConfigError
from angiovault.panel.context import Context
from angiovault.panel.texts import TABLES
from angiovault.panel.web import Answer, Asked, Message, Refused, Route, said

_LONGEST: Final = 64
_DATE: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")
_MODALITY: Final = re.compile(r"[A-Z0-9_ ]{0,16}")
_ROW: Final = re.compile(r"[0-9]{0,18}")
_DOWNLOADS: Final = 2
"""ZIP files at once: each holds one of the server's threads for as long as the browser takes it."""


def routes(context: Context) -> list[Route]:
    """Return the routes of the page."""
    downloads = threading.Semaphore(_DOWNLOADS)
    return [
        Route("GET", "/api/studies", lambda asked: _found(asked, context)),
        Route("GET", "/api/studies/<uid>", lambda asked, uid: _opened(uid, context)),
        Route("GET", "/api/studies/<uid>/zip", lambda asked, uid: _zip(asked, uid, context, downloads)),
        Route("POST", "/api/conflicts/choose", lambda asked: _choose(asked, context)),
        Route("POST", "/api/trash/add", lambda asked: _delete(asked, context)),
        Route("GET", "/api/trash", lambda asked: _trash(context)),
        Route("POST", "/api/trash/restore", lambda asked: _restore(asked, context)),
        Route("POST", "/api/trash/empty", lambda asked: _empty(asked, context)),
    ]


def _archive(context: Context) -> Archive:
    """Return the archive of the settings, opened.

    Raises
    ------
    Refused
        When it cannot be opened.
    """
    try:
        archive = context.archive(context.place.config())
        if not archive.is_open:
            archive.open(create=False)
        finish_interrupted(archive)
        archive.check()
    except ConfigError as error:
        raise Refused(409, "refused.settings", reason=str(error)) from None
    except (IndexUnavailable, StorageError) as error:
        raise Refused(409, "refused.archive", reason=str(error)) from None
    return archive


def _or_refused(work: Callable[[], Any]) -> Any:
    """Return what some work gives; what keeps the archive from it becomes a refusal."""
    try:
        return work()
    except (IndexUnavailable, StorageError) as error:
        raise Refused(409, "refused.archive", reason=str(error)) from None


# ---- finding and opening


def _found(asked: Asked, context: Context) -> dict[str, Any]:
    wanted, before = _wanted(asked.query)
    archive = _archive(context)
    found, further = _or_refused(lambda: listing.studies(archive.ready_index(), wanted, before))
    return {"studies": [_shown(study) for study in found], "next": further}


def _wanted(query: Mapping[str, str]) -> tuple[listing.Wanted, int]:
    texts = {name: query.get(name, "").strip() for name in ("name", "id", "accession", "modality", "from", "to")}
    before = query.get("before", "")
    if any(len(text) > _LONGEST for text in texts.values()) or not _ROW.fullmatch(before):
        raise Refused(400, "refused.malformed")
    problems = {name: said("wrong.date") for name in ("from", "to") if texts[name] and not _DATE.fullmatch(texts[name])}
    if not _MODALITY.fullmatch(texts["modality"].upper()):
        problems["modality"] = said("wrong.modality")
    if problems:
        raise Refused(422, "refused.search", problems)
    wanted = listing.Wanted(
        name=texts["name"],
        patient_id=texts["id"],
        first_date=texts["from"].replace("-", ""),
        last_date=texts["to"].replace("-", ""),
        modality=texts["modality"].upper(),
        accession_number=texts["accession"],
        conflicts=query.get("conflicts") == "yes",
    )
    return wanted, int(before or 0)


def _shown(study: listing.FoundStudy) -> dict[str, Any]:
    return {name: value for name, value in asdict(study).items() if name != "number"}


def _opened(uid: str, context: Context) -> dict[str, Any]:
    archive = _archive(context)

    def look() -> dict[str, Any]:
        index = archive.ready_index()
        study = listing.study(index, uid) if is_uid(uid) else None
        kept = removing.study(index, uid) if study is not None else None
        if study is None or kept is None:
            raise Refused(404, "refused.not-found")
        conflicts = listing.conflicts(index, study.number)
        return {
            "study": _shown(study),
            "series": [asdict(series) for series in listing.series(index, study.number)],
            "conflicts": {sop: [asdict(version) for version in versions] for sop, versions in conflicts.items()},
            "files": len(kept.places),
        }

    found: dict[str, Any] = _or_refused(look)
    return found


def _choose(asked: Asked, context: Context) -> dict[str, Any]:
    uid, content = asked.text("uid", _LONGEST), asked.text("content", _LONGEST)
    archive = _archive(context)
    try:
        _or_refused(lambda: archive.choose(uid, content))
    except LookupError:
        raise Refused(404, "refused.not-found") from None
    context.note(asked.user, f"made {content} the current version of {uid}")
    return {}


# ---- exporting


class _Download:
    """A ZIP file on its way to a browser; gives its slot back when it ends or the browser goes away."""

    def __init__(self, stream: streaming.ZipStream, slots: threading.Semaphore) -> None:
        self._stream = stream
        self._slots: threading.Semaphore | None = slots

    def __iter__(self) -> _Download:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._stream)
        except BaseException:  # the end too: nobody closes what fails before its first part
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        self._stream.close()
        if self._slots is not None:
            self._slots.release()
            self._slots = None


def _zip(asked: Asked, uid: str, context: Context, slots: threading.Semaphore) -> Answer | dict[str, Any]:
    """Answer with a study as a ZIP file, or, asked by `check`, whether it could be had now."""
    archive = _archive(context)
    try:
        wanted = _or_refused(lambda: exporting.find(archive, [uid] if is_uid(uid) else []))
    except exporting.NothingFound:
        wanted = []
    if not wanted:
        raise Refused(404, "refused.not-found")
    if not slots.acquire(blocking=False):
        raise Refused(409, "refused.downloads", most=_DOWNLOADS)
    if asked.query.get("check") == "yes":
        slots.release()
        return {"name": exporting.zip_name(wanted)}
    try:
        stream = streaming.ZipStream(archive, wanted, asked.query.get("dicomdir") == "yes")
    except BaseException:
        slots.release()
        raise
    context.note(asked.user, f"exports the study {uid}")
    # RFC 6266 5: the name in UTF-8 for every browser of today, and one in ASCII.
    disposition = f"attachment; filename=\"study.zip\"; filename*=UTF-8''{quote(exporting.zip_name(wanted), safe='')}"
    return Answer(_Download(stream, slots), "application/zip", {"Content-Disposition": disposition})


# ---- deleting, and the trash


def _delete(asked: Asked, context: Context) -> dict[str, Any]:
    uid, files = asked.text("uid", _LONGEST), asked.body.get("files")
    archive = _archive(context)
    study = _or_refused(lambda: removing.study(archive.ready_index(), uid))
    if study is None:
        raise Refused(404, "refused.not-found")
    if type(files) is not int:
        raise Refused(400, "refused.malformed")
    # A study without name and ID is confirmed by the word that stands in the question.
    shown = [*listing.readable_names(study.patient_name), study.patient_id]
    _check_confirmation(asked, list(filter(None, shown)) or _words("studies.delete-word"))
    context.note(asked.user, f"deletes the study {uid}")
    return _start(context, lambda: {"message": said("studies.deleted"), "id": _deleted(archive, uid, asked, files)})


def _deleted(archive: Archive, uid: str, asked: Asked, files: int) -> str:
    return Trash(archive).delete(uid, asked.user, files).id


def _check_confirmation(asked: Asked, expected: list[str]) -> None:
    if names.fold(asked.text("confirm", 1000)) not in {names.fold(text) for text in expected}:
        raise Refused(422, "refused.confirmation", {"confirm": said("wrong.confirmation")})


def _words(key: str) -> list[str]:
    return [table[key] for table in TABLES.values()]


def _start(context: Context, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Begin a task whose failures are told in words."""

    def told() -> Mapping[str, Any]:
        try:
            return work()
        except StudyChanged:
            return {"failed": said("studies.changed")}
        except (NoSuchStudy, NoSuchItem):
            return {"failed": said("refused.not-found")}
        except (IndexUnavailable, StorageError) as error:
            return {"failed": said("refused.archive", reason=str(error))}

    return context.tasks.start(told)


def _trash(context: Context) -> dict[str, Any]:
    archive = _archive(context)
    items = _or_refused(lambda: Trash(archive).items())
    free, _ = archive.store.free_bytes()
    return {"items": [_item(item) for item in items], "size": sum(item.size for item in items), "free": max(0, free)}


def _item(item: Item) -> dict[str, Any]:
    return {**asdict(item), "names": listing.readable_names(item.patient_name)}


def _restore(asked: Asked, context: Context) -> dict[str, Any]:
    archive, number = _archive(context), asked.text("id", _LONGEST)
    _known(archive, number)
    context.note(asked.user, f"restores {number} from the trash")
    return _start(context, lambda: _message("studies.restored", Trash(archive).restore(number)))


def _known(archive: Archive, number: str) -> None:
    try:
        _or_refused(lambda: Trash(archive).item(number))
    except NoSuchItem:
        raise Refused(404, "refused.not-found") from None


def _message(key: str, _done: object) -> dict[str, Message]:
    return {"message": said(key)}


def _empty(asked: Asked, context: Context) -> dict[str, Any]:
    """Remove one item for good or, without an id, those that the page shows."""
    archive, number = _archive(context), asked.text("id", _LONGEST)
    numbers = asked.body.get("ids", []) if not number else [number]
    if not isinstance(numbers, list) or not all(isinstance(each, str) for each in numbers) or not numbers:
        raise Refused(400, "refused.malformed")
    for each in numbers:
        _known(archive, each)
    _check_confirmation(asked, _words("trash.empty-word"))
    context.note(asked.user, f"empties {', '.join(numbers)} from the trash")
    return _start(context, lambda: _message("trash.emptied", [Trash(archive).empty(each) for each in numbers]))
