"""Writes the tables of the documentation from the program's own: `make docs`, and a test compares them.

Run as ``python docs/tables.py``; with ``--check`` it changes nothing and exits with 1 when a page is not up to date.
"""

import re
import sys
from pathlib import Path

from pydicom.datadict import dictionary_description

from angiovault import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from angiovault.archive.attributes import WANTED
from angiovault.archive.conversion.converter import convertible
from angiovault.archive.finding.query import LEVELS
from angiovault.archive.finding.rows import COMPUTED
from angiovault.config import Config
from angiovault.devices import settings_page
from angiovault.dimse import sop_classes
from angiovault.dimse.negotiation import APPLICATION_CONTEXT
from angiovault.dimse.query import LEVELS_OF

FOLDER = Path(__file__).parent
UNIQUE = {0x00100020: "PATIENT", 0x0020000D: "STUDY", 0x0020000E: "SERIES", 0x00080018: "IMAGE"}
MATCHING = {"UI": "S L U", "SQ": "SQ", "AS": "S M U", "DS": "S M U", "IS": "S M U", "US": "S M U"}
MATCHING |= dict.fromkeys(("DA", "DT", "TM"), "S R M U")


def table(heads: list[str], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def tag_text(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def storage_classes() -> str:
    return table(["SOP class", "UID"], [(name, uid) for uid, name in sorted(sop_classes.STORAGE.items(), key=by_uid)])


def by_uid(item: tuple[str, str]) -> list[int]:
    return [int(part) for part in item[0].split(".")]


def transfer_syntaxes() -> str:
    rows = [
        (
            name,
            uid,
            "lossless" if sop_classes.is_lossless(uid) else "may be lossy",
            "as it is" if uid in (sop_classes.EXPLICIT_VR_LE, sop_classes.IMPLICIT_VR_LE) else yes(convertible(uid)),
        )
        for uid, name in sorted(sop_classes.TRANSFER_SYNTAXES.items(), key=by_uid)
    ]
    return table(["transfer syntax", "UID", "pixels", "converted on the way out"], rows)


def yes(value: bool) -> str:
    return "yes" if value else "no"


def query_retrieve_classes() -> str:
    rows = []
    for service, classes in (("FIND", sop_classes.FIND), ("MOVE", sop_classes.MOVE), ("GET", sop_classes.GET)):
        rows += [(f"{model.title()} – {service}", uid, ", ".join(LEVELS_OF[model])) for uid, model in classes.items()]
    return table(["SOP class", "UID", "levels"], rows)


def query_keys() -> str:
    rows = []
    for level in LEVELS:
        for tag, (of, vr) in sorted(WANTED.items()):
            if of == level and tag not in (0x00080005, 0x00080201):
                kind = "unique" if tag in UNIQUE else "optional"
                rows.append((level, dictionary_description(tag), tag_text(tag), vr, kind, MATCHING.get(vr, "S * M U")))
    rows = [tuple(cell.replace("*", "\\*") for cell in row) for row in rows]
    return table(["level", "attribute", "tag", "VR", "key", "matching"], rows)


def computed_attributes() -> str:
    rows = [
        ("every" if level == "ANY" else level, dictionary_description(tag), tag_text(tag))
        for tag, (level, _) in sorted(COMPUTED.items())
    ]
    return table(["level", "attribute", "tag"], rows)


def implementation() -> str:
    rows = [
        ("Application Context Name", APPLICATION_CONTEXT),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
        ("Maximum PDU length announced", f"{Config().max_pdu} bytes (setting `max-pdu`)"),
        ("Asynchronous operations", "not supported: one operation at a time in each direction"),
        (
            "Associations as acceptor",
            f"{Config().max_associations} (setting `max-associations`); above it the longest idle one ends, "
            "or the new one is rejected (2/3/2)",
        ),
        ("Associations as requestor", "one for each retrieval, one for Storage Commitment"),
        ("Extended negotiation", "Query/Retrieve (4.3, 4.4); Storage: level 2, signature level 3, no coercion"),
        ("User identity", "ignored"),
    ]
    return table(["item", "value"], rows)


BLOCKS = {
    "storage-classes": storage_classes,
    "transfer-syntaxes": transfer_syntaxes,
    "query-retrieve-classes": query_retrieve_classes,
    "query-keys": query_keys,
    "computed-attributes": computed_attributes,
    "implementation": implementation,
}


def conformance(text: str) -> str:
    for name, make in BLOCKS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"docs/conformance.md has no block {name}, or two")
        block = f"{begin}\n{make()}\n{end}"
        text = re.sub(f"{re.escape(begin)}.*{re.escape(end)}", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def pages() -> dict[Path, str]:
    statement = FOLDER / "conformance.md"
    return {
        statement: conformance(statement.read_text(encoding="utf-8")),
        FOLDER / "settings.md": settings_page(),
    }


def main() -> int:
    stale = [path for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path} is not up to date: run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
