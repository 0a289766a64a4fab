"""The walk through the elements of a data set while its bytes arrive (PS3.5 7): without recursion, in bounded memory.

Only wanted values are kept, everything else is stepped over.
"""

from __future__ import annotations

import struct
from typing import Final

from angiovault.archive.attributes import WANTED

LONGEST_VALUE: Final = 0xFFFE
"""Bytes; the longest value of even length that the short form of Explicit VR can hold (PS3.5 7.1.2)."""
LONGEST_SEQUENCE: Final = 16 << 10
MOST_CAPTURED: Final = 768 << 10
"""Bytes kept of one data set, the identifying UIDs not counted."""

_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
IDENTIFYING: Final = (_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID)

LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())

_ITEM, _ITEM_DELIMITER, _SEQUENCE_DELIMITER = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED: Final = 0xFFFFFFFF

_USUAL: Final = {tag: vr.encode() for tag, (_, vr) in WANTED.items()}
_LONG: Final = 1 << 32
"""Added to what is known of an element of the long form of Explicit VR (PS3.5 7.1.2)."""
_NOT_HERE: Final = _LONG << 1
"""Instead of it for an element that takes a closer look."""
_STRETCH: Final = LONGEST_SEQUENCE
"""Bytes in which whole elements are looked for at once: nothing in them is longer than what may be kept."""
_MOST_KNOWN: Final = 4096


class _Encoding:
    """How the beginnings of elements are written, and those that were met before.

    Attributes
    ----------
    known : dict[bytes, int]
        Tag and VR as they are encoded -> the tag if it is wanted, else 0; `_LONG` more for elements of the long form.
    """

    def __init__(self, order: str, implicit: bool) -> None:
        self.implicit = implicit
        self.halves = struct.Struct(f"{order}HH")
        self.tag_length = struct.Struct(f"{order}HHL")
        self.vr_length = struct.Struct(f"{order}4x2sH")
        self.long_length = struct.Struct(f"{order}8xL")
        self.start = struct.Struct(f"{order}4sL" if implicit else f"{order}6sH")
        self.known: dict[bytes, int] = {}


_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = _Encoding("<", True), _Encoding("<", False), _Encoding(">", False)


class _Unreadable(Exception):
    """The walk cannot go on behind this point."""


class Walk:
    """The way through the elements of an inflated data set.

    Only what has an undefined length is entered, so below the top level sequences and items alternate: a depth is all
    there is to remember of any nesting. An odd depth is inside a sequence (or fragments), an even one inside an item.
    """

    def __init__(self, implicit: bool, big_endian: bool) -> None:
        self.elements: dict[int, bytes] = {}
        self.unknown_vr: set[int] = set()
        self.passed_over: dict[int, str] = {}
        self.problem = ""
        self.opening = b""
        self._encoding = _IMPLICIT if implicit else _BIG_ENDIAN if big_endian else _EXPLICIT
        self._offset = 0  # of the piece being fed
        self._pending = b""  # the beginning of an element whose length has not arrived yet
        self._remaining = 0  # bytes of the current value still to come
        self._tag = 0  # the latest element of the top level
        self._depth = 0
        self._unknown_depth = 0  # of the outermost sequence with VR UN, inside which all is Implicit VR Little Endian
        self._fragments = False
        self._capture: bytearray | None = None
        self._room = 0
        self._captured = 0

    def feed(self, view: memoryview) -> None:
        """Take the next bytes; what cannot be read ends the walk, with the reason in `problem`."""
        if self.problem:
            return
        if len(self.opening) < 8:
            self.opening += view[: 8 - len(self.opening)]
        position, end = 0, len(view)
        try:
            while position < end:
                if self._remaining:
                    position += self._pass(view, position, end)
                elif self._pending:
                    position += self._resume(view, position)
                else:
                    size = 0 if self._depth else self._step_over(view, position, end)
                    size = size or self._open(view, position, end)
                    if not size:
                        self._pending = bytes(view[position:])
                        break
                    position += size
        except _Unreadable as reason:
            self.problem = f"{reason} at byte {self._offset + position - len(self._pending)}"
            self._capture = None
        self._offset += end

    def _step_over(self, view: memoryview, begin: int, end: int) -> int:
        """Take the elements of the top level that have come whole; return their size, 0 if the first is none such.

        That is most of all elements, so here it counts how often something is looked up. The others, and what cannot
        be read, are left to the walk by single steps.
        """
        if self._captured > MOST_CAPTURED - _STRETCH:
            return 0
        stretch = bytes(view[begin : min(begin + _STRETCH, end)])
        encoding, elements = self._encoding, self.elements
        start, known = encoding.start.unpack_from, encoding.known
        position, end, latest = 0, len(stretch), b""
        while end - position >= 12:
            key, length = start(stretch, position)
            tag = known.get(key)
            if tag is None:
                tag = self._meaning(key)
            value = position + 8
            if tag >= _LONG:
                if tag == _NOT_HERE:
                    break
                (length,) = encoding.long_length.unpack_from(stretch, position)
                value, tag = position + 12, tag - _LONG
            after = value + length
            if after > end:  # or of undefined length
                break
            if tag and tag not in elements and tag not in self.passed_over:
                elements[tag] = stretch[value:after]
                self._captured += length
            position, latest = after, key
        if position:
            self._tag = self._tag_of(latest)
        return position

    def _meaning(self, key: bytes) -> int:
        """Return what is known of an element and remember it; `_NOT_HERE` for one that takes a closer look."""
        tag, vr = self._tag_of(key), key[4:]
        is_long = vr in LONG_VRS
        if tag >> 16 == 0xFFFE or (vr and vr not in SHORT_VRS and not is_long):
            return _NOT_HERE
        wanted = _USUAL.get(tag)
        if wanted is not None and vr not in (b"", wanted):
            return _NOT_HERE
        meaning = (0 if wanted is None else tag) + (_LONG if is_long else 0)
        known = self._encoding.known
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known[key] = meaning
        return meaning

    def _tag_of(self, key: bytes) -> int:
        group, number = self._encoding.halves.unpack_from(key)
        return int(group << 16 | number)

    @property
    def skippable(self) -> int:
        """Bytes still to come of a value that is not captured."""
        return 0 if self.problem or self._capture is not None else self._remaining

    def skip(self, count: int) -> None:
        """Step over `count` bytes, at most `skippable`."""
        self._remaining -= count
        self._offset += count
        if not self._remaining and not self._depth:
            self._settle()

    def ending(self) -> str:
        """Say why the walk has not come to a proper end, '' if it has."""
        if self.problem:
            return self.problem
        if self._depth:
            return f"last element {named(self._tag)}, of undefined length, has no end"
        if self._remaining:
            return f"last element {named(self._tag)} is {self._remaining} bytes short"
        return f"{len(self._pending)} bytes at the end are no whole element" if self._pending else ""

    def _pass(self, view: memoryview, position: int, end: int) -> int:
        step = min(self._remaining, end - position)
        if self._capture is not None:
            self._keep(self._capture, view[position : position + step])
        self._remaining -= step
        if not self._remaining and not self._depth:
            self._settle()
        return step

    def _resume(self, view: memoryview, position: int) -> int:
        had = len(self._pending)
        start = self._pending + view[position : position + 12 - had]
        size = self._open(memoryview(start), 0, len(start))
        self._pending = b"" if size else start
        return (size or len(start)) - had

    def _open(self, buffer: memoryview, at: int, end: int) -> int:
        """Read the beginning of an element, up to its value; return its size, 0 if it is not there as a whole."""
        if end - at < 8:
            return 0
        encoding = _IMPLICIT if self._unknown_depth else self._encoding
        group, number, length = encoding.tag_length.unpack_from(buffer, at)
        tag, vr, size = group << 16 | number, b"", 8
        between = group == 0xFFFE or self._depth & 1
        if not encoding.implicit and not between:
            vr, length = encoding.vr_length.unpack_from(buffer, at)
            if vr not in SHORT_VRS:
                # A VR that the standard may still define is of the long form, with two reserved bytes: PS3.5 7.1.2.
                if vr not in LONG_VRS and (length or not (vr.isalpha() and vr.isupper())):
                    raise _Unreadable(f"element {named(tag)} has no VR that can be read (bytes {vr.hex(' ')})")
                if end - at < 12:
                    return 0
                (length,) = encoding.long_length.unpack_from(buffer, at)
                size = 12
        if self._depth:
            if self._capture is not None and (self._depth > 1 or tag != _SEQUENCE_DELIMITER):
                self._keep(self._capture, buffer[at : at + size])
        elif not between:
            self._begin(tag, vr, length)
        if between:
            self._delimit(tag, length)
        elif length == UNDEFINED:
            self._enter(tag, vr)
        else:
            self._remaining = length
        if not self._remaining and not self._depth:
            self._settle()
        return size

    def _begin(self, tag: int, vr: bytes, length: int) -> None:
        """Decide whether the value of a top-level element is to be captured."""
        self._tag = tag
        if tag not in WANTED or tag in self.elements or tag in self.passed_over:
            return
        wanted = WANTED[tag][1]
        room = LONGEST_SEQUENCE if wanted == "SQ" else LONGEST_VALUE
        if tag not in IDENTIFYING:
            room = min(room, MOST_CAPTURED - self._captured)
        # Text is text under any VR; a number or a sequence is one only under its own, or where the VR is not known.
        if vr not in (b"", b"UN", wanted.encode()) and (wanted in ("SQ", "US") or vr == b"SQ"):
            self.passed_over[tag] = f"has VR {vr.decode()}"
        elif length == UNDEFINED and wanted != "SQ":
            self.passed_over[tag] = "has an undefined length"
        elif room < length != UNDEFINED:
            self.passed_over[tag] = f"is {length} bytes long"
        else:
            self._capture, self._room = bytearray(), room
            if vr == b"UN":
                self.unknown_vr.add(tag)

    def _enter(self, tag: int, vr: bytes) -> None:
        """Go into a value of undefined length (PS3.5 7.1.2, 7.5, A.4)."""
        if vr not in (b"", b"SQ", b"UN", b"OB", b"OW"):
            raise _Unreadable(f"element {named(tag)} of VR {vr.decode()} has an undefined length")
        self._depth += 1
        self._fragments = vr in (b"OB", b"OW")
        if vr == b"UN":
            self._unknown_depth = self._depth

    def _delimit(self, tag: int, length: int) -> None:
        """Take an item, or the end of an item or a sequence (PS3.5 7.5)."""
        in_sequence = self._depth & 1
        if in_sequence and tag == _ITEM and length != UNDEFINED:
            self._remaining = length
        elif in_sequence and tag == _ITEM and not self._fragments:
            self._depth += 1
        elif self._depth and tag == (_SEQUENCE_DELIMITER if in_sequence else _ITEM_DELIMITER):
            self._depth -= 1
            self._fragments = False
            if self._depth < self._unknown_depth:
                self._unknown_depth = 0
        else:
            where = f" inside {named(self._tag)}" if self._depth else ""
            raise _Unreadable(f"{named(tag)} is out of place{where}")

    def _keep(self, capture: bytearray, piece: memoryview) -> None:
        if len(capture) + len(piece) > self._room:
            self._capture = None
            self.passed_over[self._tag] = f"is more than {self._room} bytes long"
        else:
            capture += piece

    def _settle(self) -> None:
        """File the captured value: the end of a top-level element has come."""
        if self._capture is not None:
            self.elements[self._tag] = bytes(self._capture)
            self._captured += len(self._capture)
            self._capture = None


def named(tag: int) -> str:
    """Return a tag as people write it."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
