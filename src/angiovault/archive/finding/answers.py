"""The character set of a C-FIND answer: which one to use, and the values encoded in it.

A workstation reads names only in the sets it knows, so an answer is given in the request's own set, or in the one
configured for the device, as long as no character is lost; otherwise as it was stored.
"""

import re
import struct
from collections.abc import Callable, Iterator

from angiovault.archive.names import (
    ASCII,
    ESC,
    G1_CODECS,
    JIS_X_0201_ROMAJI,
    JIS_X_0208,
    JIS_X_0212,
    REPERTOIRES,
    CharacterSet,
    character_set,
    decode,
    interpret,
)

Values = dict[int, tuple[str, bytes]]
"""Tag -> (VR, value as bytes; of a sequence the items in Explicit VR Little Endian)."""

DEVICE_LABELS: dict[str, bytes] = {
    "auto": b"",
    "GB18030": b"GB18030",
    "ISO 2022 IR 58": b"\\ISO 2022 IR 58",
    "ISO_IR 100": b"ISO_IR 100",
    "ISO_IR 192": b"ISO_IR 192",
}
"""What can be configured for a device -> the (0008,0005) of its answers; ``auto`` has none of its own."""

_TEXT_VRS = frozenset(("SH", "LO", "ST", "PN", "LT", "UC", "UT"))
_LONG_LENGTH_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_SPECIFIC_CHARACTER_SET = 0x00080005
_ITEM, _ITEM_DELIMITER, _SEQUENCE_DELIMITER = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONGEST_SHORT_VALUE = 0xFFFE
_DEEPEST_NESTING = 32
_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")
_GB_2312 = REPERTOIRES[58][1]
_DELIMITERS = "\r\n\t\f\\^="
_DELIMITERS_OF_VR = {
    vr: _DELIMITERS if vr == "PN" else "\r\n\t\f" if vr in ("ST", "LT", "UT") else "\r\n\t\f\\" for vr in _TEXT_VRS
}

_Recode = Callable[[str, bytes, bytes], bytes]
"""(VR, value, the label it was stored under) -> the value for the answer."""


def transcode(
    values: Values, stored_label: bytes, requested: bytes | None, device_setting: str
) -> tuple[bytes, Values]:
    """Choose the character set of one answer and encode its text values (SH LO ST PN LT UC UT, also in sequences).

    Parameters
    ----------
    values
        The stored values of one match; they are not changed in place.
    stored_label
        (0008,0005) of the data set they come from, empty if it has none.
    requested
        (0008,0005) of the request, None or empty if it has none.
    device_setting
        One of `DEVICE_LABELS`: used where the request names no set that can hold the answer. ``auto`` leaves rightly
        labelled values as they are and puts the right label on others.

    Returns
    -------
    tuple[bytes, Values]
        (0008,0005) of the answer, without padding, empty if it is to be left out; and the values.

    Raises
    ------
    ValueError
        If `device_setting` is unknown.
    """
    if device_setting not in DEVICE_LABELS:
        raise ValueError(f"unknown character set setting {device_setting!r}: use one of {', '.join(DEVICE_LABELS)}")
    stored = stored_label.strip(b" \0")
    asked = requested.strip(b" \0") if requested and character_set(requested).known else b""
    try:
        texts = [] if are_plain(values) else _texts_beyond_ascii(values, stored)
        if not texts:
            return asked, dict(values)
        labels = [asked, DEVICE_LABELS[device_setting]]
        if device_setting == "auto" and not all(_rightly_labelled(raw, label) for raw, label in texts):
            labels.append(_right_label(texts))
    except ValueError:  # a sequence that cannot be read can only be given back as it is
        return stored, dict(values)
    for label in filter(None, labels):
        try:
            return label, _encoded(values, stored, label)
        except ValueError:  # this set cannot hold the answer
            continue
    return stored, dict(values)


def encode(text: str, charset: CharacterSet, vr: str = "PN") -> bytes:
    """Encode text in a declared character set, with escape sequences where it has code extensions (PS3.5 6.1.2.5).

    `vr` is the VR of the value, on which it depends what ends a piece of text. The result is not padded.

    Raises
    ------
    UnicodeEncodeError
        If the set cannot hold the text.
    """
    if charset.standalone:
        return text.encode(charset.codec)
    encoded = bytearray()
    g0, g1 = ASCII, charset.initial
    # Inside Japanese text the return to one-byte characters goes to the first set declared: ASCII or ISO-IR 14.
    one_byte = JIS_X_0201_ROMAJI if charset.codec == "shift_jis" else ASCII
    for at, character in enumerate(text):
        if character.isascii() and character != "\x1b":
            if g0 in (JIS_X_0208, JIS_X_0212):
                g0 = one_byte
                encoded += g0
            if g1 == _GB_2312 and character not in _DELIMITERS_OF_VR[vr]:
                encoded += ASCII  # needless by the standard, but DCMTK takes the bytes up to a delimiter in pairs
                g1 = b""
            if character in _DELIMITERS:
                encoded += charset.initial if g1 != charset.initial else b""
                g1 = charset.initial
            encoded += character.encode("ascii")
            continue
        for escape in dict.fromkeys((g0, g1, charset.initial, *charset.extensions)):
            code = _code(character, escape)
            if code:
                break
        else:
            raise UnicodeEncodeError("DICOM", text, at, at + 1, "not in the declared character sets")
        if escape not in (g0, g1):
            encoded += escape
        g0, g1 = (g0, escape) if escape in G1_CODECS else (escape, g1)
        encoded += code
    if g0 in (JIS_X_0208, JIS_X_0212):
        encoded += one_byte
    return bytes(encoded + (charset.initial if g1 != charset.initial else b""))


def _code(character: str, escape: bytes) -> bytes:
    """Return the code of a character in the set that `escape` designates, empty if it is not in there."""
    codec = {JIS_X_0208: "euc_jp", JIS_X_0212: "euc_jp"}.get(escape) or G1_CODECS.get(escape)
    try:
        code = character.encode(codec) if codec else b""
    except UnicodeEncodeError:
        return b""
    if escape == JIS_X_0212:
        return bytes(byte & 0x7F for byte in code[1:]) if code[0] == 0x8F else b""
    if min(code, default=0) < 0xA0:
        return b""  # beyond GB 2312, KS X 1001 or JIS X 0201: a code that only the superset has
    if escape == _GB_2312:
        return code if _is_gb2312(code) else b""
    if escape == JIS_X_0208:
        return bytes(byte & 0x7F for byte in code)
    return code if len(code) == (2 if codec == "cp949" else 1) else b""


def _is_gb2312(code: bytes) -> bool:
    try:
        return len(code.decode("gb2312")) == 1
    except UnicodeDecodeError:
        return False


def are_plain(values: Values) -> bool:
    """Return whether no label matters to any of some values."""
    return _plain(b"".join([raw for _, raw in values.values()]))


def _plain(raw: bytes) -> bool:
    return raw.isascii() and ESC not in raw


def _texts_beyond_ascii(values: Values, stored: bytes) -> list[tuple[bytes, bytes]]:
    """List the texts, also those in sequences, that a label matters to, each with the label it was stored under."""
    texts: list[tuple[bytes, bytes]] = []

    def note(_vr: str, raw: bytes, label: bytes) -> bytes:
        if not _plain(raw):
            texts.append((raw, label))
        return raw

    for vr, raw in values.values():
        if vr in _TEXT_VRS:
            note(vr, raw, stored)
        elif vr == "SQ":
            _ItemRewriter(raw, b"", note).items(stored)
    return texts


def _rightly_labelled(raw: bytes, label: bytes) -> bool:
    text, valid = interpret(raw, character_set(label))
    return valid and decode(raw, label) == text


def _right_label(texts: list[tuple[bytes, bytes]]) -> bytes:
    """Return GB18030 for texts that are Chinese in that encoding already, else UTF-8, which holds everything."""
    gb18030 = character_set(b"GB18030")
    chinese = False
    for raw, label in texts:
        text = decode(raw, label)
        chinese = chinese or bool(_HAN.search(text))
        if interpret(raw, gb18030) != (text, True):
            return b"ISO_IR 192"
    return b"GB18030" if chinese else b"ISO_IR 192"


def _encoded(values: Values, stored: bytes, target: bytes) -> Values:
    """Encode all text values under the label `target`; ValueError if it cannot hold them all."""
    charset = character_set(target)

    def recode(vr: str, raw: bytes, label: bytes) -> bytes:
        if _plain(raw):
            return raw
        if character_set(label) == charset and _rightly_labelled(raw, label):
            return raw
        text = decode(raw, label).rstrip(" \0")
        encoded = encode(text, charset, vr)
        if "\ufffd" in text or interpret(encoded, charset) != (text, True):
            raise ValueError(f"{target!r} cannot hold the text")
        return encoded + b" " * (len(encoded) % 2)

    answer: Values = {}
    for tag, (vr, raw) in values.items():
        if vr in _TEXT_VRS:
            answer[tag] = (vr, recode(vr, raw, stored))
        elif vr == "SQ":
            answer[tag] = (vr, _ItemRewriter(raw, target, recode).items(stored))
        else:
            answer[tag] = (vr, raw)
    return answer


class _ItemRewriter:
    """Rewrites the text values in the items of one sequence, and leaves every other value as it is.

    Reads Explicit VR Little Endian (PS3.5 7.1.2, 7.5) and writes it with defined lengths. An item with a (0008,0005)
    of its own is read by that, and labelled `target` afterwards. What cannot be followed raises ValueError: broken
    lengths, undefined lengths outside sequences, nesting without end.
    """

    def __init__(self, data: bytes, target: bytes, recode: _Recode) -> None:
        self._data = data
        self._target = target + b" " * (len(target) % 2)
        self._recode = recode
        self._position = 0

    def items(self, label: bytes, end: int | None = None, depth: int = 0) -> bytes:
        """Rewrite items up to `end`, or up to a sequence delimiter, of text stored under `label`."""
        if depth > _DEEPEST_NESTING:
            raise ValueError("sequences nested too deep")
        end = len(self._data) if end is None else end
        rewritten = bytearray()
        while self._position < end:
            tag = self._tag()
            (length,) = struct.unpack("<I", self._take(4))
            if tag == _SEQUENCE_DELIMITER:
                break
            if tag != _ITEM:
                raise ValueError(f"({tag >> 16:04x},{tag & 0xFFFF:04x}) where an item should be")
            stop = end if length == _UNDEFINED_LENGTH else self._position + length
            if stop > end:
                raise ValueError("an item longer than its sequence")
            item = b"".join(self._elements(label, stop, depth))
            rewritten += struct.pack("<2HI", _ITEM >> 16, _ITEM & 0xFFFF, len(item)) + item
        return bytes(rewritten)

    def _elements(self, label: bytes, stop: int, depth: int) -> Iterator[bytes]:
        while self._position < stop:
            tag = self._tag()
            if tag == _ITEM_DELIMITER:
                self._take(4)
                return
            vr = self._take(2).decode("ascii")
            long = vr in _LONG_LENGTH_VRS
            (length,) = struct.unpack("<2xI" if long else "<H", self._take(6 if long else 2))
            if vr == "SQ":
                end = stop if length == _UNDEFINED_LENGTH else self._position + length
                if end > stop:
                    raise ValueError("a sequence longer than its item")
                value = self.items(label, end, depth + 1)
            else:
                value = self._take(length)
            if self._position > stop:
                raise ValueError("an element longer than its item")
            if tag == _SPECIFIC_CHARACTER_SET:
                label, value = value.strip(b" \0"), self._target
            elif vr in _TEXT_VRS:
                value = self._recode(vr, value, label)
            if not long and len(value) > _LONGEST_SHORT_VALUE:
                raise ValueError("a value too long for its VR")
            yield struct.pack("<2H2s", tag >> 16, tag & 0xFFFF, vr.encode("ascii"))
            yield struct.pack("<2xI" if long else "<H", len(value)) + value

    def _tag(self) -> int:
        group, element = struct.unpack("<2H", self._take(4))
        return int(group << 16 | element)

    def _take(self, length: int) -> bytes:
        taken = self._data[self._position : self._position + length]
        if len(taken) < length:
            raise ValueError("a sequence that ends too early")
        self._position += length
        return taken
