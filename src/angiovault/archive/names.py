"""Person names and character sets: from stored bytes to Unicode text and to search keys.

Devices mislabel text often (Chinese in GBK that claims to be Latin-1, or claims nothing), so a value is read as
what it most plausibly is, not only as what its data set declares. The bytes themselves are never changed here.

ISO 2022 code extensions are followed byte by byte (PS3.5 6.1.2.5): the two code elements G0 and G1 are switched
independently, and bytes such as 0x5E inside a Japanese or Chinese character are not taken for delimiters.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

MAX_KEY_LENGTH = 191
"""Longest search key in characters: 191 four-byte characters fit in an index of 767 bytes."""

ESC = b"\x1b"
JIS_X_0208 = ESC + b"$B"
JIS_X_0212 = ESC + b"$(D"
ASCII = ESC + b"(B"
JIS_X_0201_ROMAJI = ESC + b"(J"

# The registration number in a defined term (PS3.3 Tables C.12-2 to C.12-4) -> Python codec, escape sequence. Codecs of
# G1 sets read ASCII as well. GB 2312 and KS X 1001 are read by their supersets, which devices put under these labels.
REPERTOIRES: dict[int, tuple[str, bytes]] = {
    6: ("", ASCII),
    13: ("shift_jis", ESC + b")I"),
    58: ("gb18030", ESC + b"$)A"),
    87: ("jis_x_0208", JIS_X_0208),
    100: ("latin_1", ESC + b"-A"),
    101: ("iso8859_2", ESC + b"-B"),
    109: ("iso8859_3", ESC + b"-C"),
    110: ("iso8859_4", ESC + b"-D"),
    126: ("iso8859_7", ESC + b"-F"),
    127: ("iso8859_6", ESC + b"-G"),
    138: ("iso8859_8", ESC + b"-H"),
    144: ("iso8859_5", ESC + b"-L"),
    148: ("iso8859_9", ESC + b"-M"),
    149: ("cp949", ESC + b"$)C"),
    159: ("jis_x_0212", JIS_X_0212),
    166: ("tis_620", ESC + b"-T"),
    203: ("iso8859_15", ESC + b"-b"),
}
MULTI_BYTE = (58, 87, 149, 159)
G1_CODECS = {escape: codec for codec, escape in REPERTOIRES.values() if escape[1:2] in (b")", b"-") or b"$)" in escape}
_G0_SETS = (ASCII, JIS_X_0201_ROMAJI, JIS_X_0208, JIS_X_0212)
_STANDALONE = {"GBK": "gbk", "GB2312": "gbk", "CP936": "gbk", "ISO202258": "gbk", "ISO2022GBK": "gbk", "UTF8": "utf_8"}

_ESCAPE = re.compile(b"|".join(re.escape(escape) for escape in (*G1_CODECS, *_G0_SETS)))
_RUN = re.compile(rb"[\r\n\t\f\\^=]|[^\x1b\r\n\t\f\\^=]+")
_DELIMITER = re.compile(rb"[\r\n\t\f\\^=]")
_G0_GRAPHIC = re.compile(rb"[\x21-\x7e]+")
_G0_OTHER = re.compile(rb"[^\x1b\x21-\x7e]+")
_C1 = re.compile(rb"[\x80-\x9f]")

_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_RUN = re.compile(f"[{_HAN}]+")
_CHINESE_TEXT = re.compile(f"[\x00-\x7f\u00b7\u2014\u2018-\u201d\u2026\u3000-\u303f\uff01-\uff60{_HAN}]*")
_BETWEEN_WORDS = re.compile(r"[\s_\x00-]+")
_ISO_IR = re.compile(r"(?:ISO)?(?:2022)?IR([0-9]{1,3})")
_BETWEEN_GROUPS = re.compile(r"[\\=]")
_LOWER_THEN_UPPER = re.compile("[a-z\u00df-\u00ff][A-Z\u00c0-\u00de]")
_TWO_BYTE_TEXT = re.compile("[A-Za-z\u00c0-\u024f\u0370-\u04ff\u05d0-\u06ff]{2,}|[0-9] ?[\u00b0-\u00be]|\u00b1[0-9]")

# Dots that people and devices use for one another between the parts of a transcribed name; Turkish i in one form.
_SAME = {0x30FB: "\u00b7", 0x2022: "\u00b7", 0x2027: "\u00b7", 0x0131: "i"} | {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if not chr(code).isspace()
}


@dataclass(frozen=True)
class CharacterSet:
    """What a Specific Character Set (0008,0005) declares (PS3.3 C.12.1.1.2).

    Attributes
    ----------
    codec
        Python codec of the text before any escape sequence; empty for the default repertoire (ASCII).
    initial
        Escape sequence that designates `codec` to G1; empty where none is needed or none exists.
    extensions
        Escape sequences of the sets that code extensions may switch to, in the declared order.
    known
        False if no value, or no value that is understood, was declared.
    """

    codec: str = ""
    initial: bytes = b""
    extensions: tuple[bytes, ...] = ()
    known: bool = False

    @property
    def standalone(self) -> bool:
        """Whether the set forbids code extensions: UTF-8, GB18030, GBK (PS3.5 6.1.2.5.4)."""
        return self.codec in ("utf_8", "gb18030", "gbk")


def character_set(label: bytes | str | None) -> CharacterSet:
    """Understand a value of (0008,0005), tolerating common misspellings; anything else counts as not declared."""
    text = label.decode("ascii", "replace") if isinstance(label, bytes) else label or ""
    return _character_set(text[:256])


@lru_cache(maxsize=256)
def _character_set(label: str) -> CharacterSet:
    codec, initial, known = "", b"", False
    extensions: list[bytes] = []
    for place, term in enumerate(label.split("\\")):
        squeezed = _BETWEEN_WORDS.sub("", term.upper())
        standalone = "gb18030" if squeezed.startswith("GB18030") else _STANDALONE.get(squeezed)
        number = _ISO_IR.fullmatch(squeezed)
        registration = int(number[1]) if number else -1
        if registration == 192:
            standalone = "utf_8"
        if standalone and place == 0:
            return CharacterSet(standalone, known=True)
        if registration not in REPERTOIRES:
            continue
        known = True
        if place == 0 and registration not in MULTI_BYTE:
            codec, initial = REPERTOIRES[registration]
        else:
            extensions.append(REPERTOIRES[registration][1])
    return CharacterSet(codec, initial if codec else b"", tuple(extensions), known)


def decode(raw: bytes, label: bytes | str | None) -> str:
    """Return the most plausible text of a value whose data set declared `label`; padding is kept. Never raises."""
    return alternatives(raw, label)[0]


def alternatives(raw: bytes, label: bytes | str | None) -> list[str]:
    """Return all plausible readings of a value, the best first, without duplicates (at least one). Never raises."""
    charset = character_set(label)
    own, valid = interpret(raw, charset)
    if raw.isascii() or ESC in raw:
        return [own]
    utf8, chinese = _strict(raw, "utf_8"), _strict(raw, "gb18030")
    if charset.codec == "utf_8":
        readings = _declared_utf8(raw, own, valid, _if_chinese(raw, chinese))
    elif charset.standalone:
        readings = _declared_chinese(raw, own if valid else None, utf8)
    elif charset.codec not in ("", "latin_1"):
        readings = [own] if valid else [utf8, _if_chinese(raw, chinese), own]
    else:
        readings = _undeclared(raw, charset, utf8, chinese)
    return list(dict.fromkeys(reading for reading in readings if reading is not None))


def interpret(raw: bytes, charset: CharacterSet) -> tuple[str, bool]:
    """Read a value strictly as declared (PS3.5 6.1.2.5).

    Returns
    -------
    tuple[str, bool]
        The text, and whether all bytes were valid; where they were not it has replacement characters, or Latin-1
        letters for high bytes in the default repertoire.
    """
    if ESC in raw:
        return _follow_escapes(raw, charset)
    if raw.isascii():
        return raw.decode("ascii"), True
    return _decode_g1(raw, charset.codec)


def _decode_g1(raw: bytes, codec: str) -> tuple[str, bool]:
    if not codec:
        return raw.decode("latin_1"), raw.isascii()
    codec = "gb18030" if codec == "gbk" else codec
    single_byte = codec.startswith(("latin", "iso8859", "tis"))
    try:
        return raw.decode(codec), not (single_byte and _C1.search(raw))
    except UnicodeDecodeError:
        return raw.decode(codec, "replace"), False


def _follow_escapes(raw: bytes, charset: CharacterSet) -> tuple[str, bool]:
    """Decode ISO 2022 text. Escape sequences that the label forgot to declare are followed, but are not valid."""
    declared = (ASCII, JIS_X_0201_ROMAJI, charset.initial, *charset.extensions)
    g0, g1 = ASCII, charset.codec
    text: list[str] = []
    valid = True
    position = 0
    while position < len(raw):
        two_byte_set = g0 in (JIS_X_0208, JIS_X_0212)
        escape = _ESCAPE.match(raw, position)
        two_byte = _G0_GRAPHIC.match(raw, position) if two_byte_set else None
        run = (_G0_OTHER if two_byte_set else _RUN).match(raw, position)
        part, good = "", True
        if escape:
            g0, g1 = (escape[0], g1) if escape[0] in _G0_SETS else (g0, G1_CODECS[escape[0]])
            good = escape[0] in declared
        elif two_byte:
            part, good = _decode_g0(two_byte[0], g0)
        elif run:
            if _DELIMITER.search(run[0]):
                # Without a G1 set to return to, the last one designated is the only sense high bytes can have.
                g0, g1 = ASCII, charset.codec or g1
            part, good = _decode_g1(run[0], g1)
        else:
            good = False  # an escape sequence that is not DICOM's: its ESC is left out
        taken = escape or two_byte or run
        position = taken.end() if taken else position + 1
        text.append(part)
        valid = valid and good
    return "".join(text), valid


def _decode_g0(raw: bytes, escape: bytes) -> tuple[str, bool]:
    """Decode two-byte characters of JIS X 0208 or JIS X 0212, which EUC-JP has with the high bits set."""
    lead = b"\x8f" if escape == JIS_X_0212 else b""
    euc = b"".join(lead + bytes(byte | 0x80 for byte in raw[at : at + 2]) for at in range(0, len(raw), 2))
    try:
        return euc.decode("euc_jp"), True
    except UnicodeDecodeError:
        return euc.decode("euc_jp", "replace"), False


def _strict(raw: bytes, codec: str) -> str | None:
    try:
        return raw.decode(codec)
    except UnicodeDecodeError:
        return None


def _western(raw: bytes) -> str:
    """Read as Latin-1; bytes that are control characters there are the letters and quotes of Windows code page 1252."""
    return (_strict(raw, "cp1252") if _C1.search(raw) else None) or raw.decode("latin_1")


def _cut_short(text: str) -> bool:
    """Tell whether text is good but for its end: some devices cut a value at a byte count, inside a character."""
    text = text.rstrip(" \0")
    return text.find("\ufffd") == len(text) - 1 and not text[:-1].isascii()


def _declared_utf8(raw: bytes, own: str, valid: bool, chinese: str | None) -> list[str | None]:
    """Rank the readings of a value labelled ISO_IR 192; `chinese` is its reading as GB18030 if that is convincing."""
    if valid or _cut_short(own):
        return [own, None if _is_plausible_utf8(own) else chinese]
    return [chinese, _western(raw)]


def _declared_chinese(raw: bytes, own: str | None, utf8: str | None) -> list[str | None]:
    """Rank the readings of a value labelled GB18030 or GBK; `own` is None if it is not valid as such."""
    # Chinese in UTF-8 is often valid GBK by chance, but then made of characters outside GB 2312.
    if utf8 and (own is None or (max(utf8) > "\u07ff" and not _in_gb2312(own))):
        return [utf8, own]
    if own is not None:
        return [own, None if utf8 and max(utf8) <= "\u07ff" and _if_chinese(raw, own) else utf8]
    cut = raw.decode("gb18030", "replace")
    whole = raw.rstrip(b" \0")[:-1]
    if _cut_short(cut) and _if_chinese(whole, _strict(whole, "gb18030")):
        return [cut]
    return [_western(raw)]


def _undeclared(raw: bytes, charset: CharacterSet, utf8: str | None, chinese: str | None) -> list[str | None]:
    """Rank the readings of high bytes under ISO_IR 100 or no label: these two lie most often."""
    convincing = _if_chinese(raw, chinese)
    if utf8 and convincing and not _is_plausible_utf8(utf8):
        utf8 = None
    codecs = [G1_CODECS.get(escape, "gb18030") for escape in charset.extensions]
    extended = [_strict(raw, codec) for codec in codecs if codec != "gb18030"]
    possible = chinese if chinese and _CHINESE_TEXT.fullmatch(chinese) else None
    return [utf8, *extended, convincing, _western(raw), possible]


def _is_plausible_utf8(text: str) -> bool:
    """Tell whether valid UTF-8 is that by more than chance, as short GB 2312 values can be: words, or units."""
    return max(text) > "\u07ff" or _TWO_BYTE_TEXT.sub("", text).isascii()


def _in_gb2312(text: str) -> bool:
    try:
        text.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def _if_chinese(raw: bytes, chinese: str | None) -> str | None:
    """Return `chinese`, the GB18030 reading of `raw`, if it is convincing: all Chinese, and not likelier Latin-1.

    In Latin-1 names high bytes stand alone between ASCII letters ("Müller"), and a pair of them touches ASCII letters
    ("Ibáñez"). In Chinese names they come in pairs between delimiters. "20°C" has an ASCII byte in its only pair.
    """
    if not chinese or not _CHINESE_TEXT.fullmatch(chinese) or not re.search(rb"[\x80-\xff]{2}", raw):
        return None
    runs = [run for run in _HAN_RUN.finditer(chinese) if len(run[0]) > 1 or not _touches_letter(chinese, run)]
    latin = _western(raw)
    looks_latin = not _LOWER_THEN_UPPER.search(re.sub("[a-z](?=[A-Z])", "", latin)) and all(
        character.isalpha() for character in latin if not character.isascii()
    )
    return chinese if runs and (not looks_latin or _in_gb2312(chinese)) else None


def _touches_letter(text: str, run: re.Match[str]) -> bool:
    around = text[max(run.start() - 1, 0) : run.start()] + text[run.end() : run.end() + 1]
    return any(character.isascii() and character.isalpha() for character in around)


def fold(text: str) -> str:
    """Return the search form of any text: NFKC, caseless, single-spaced, without control characters.

    It is our own because database collations differ; it is idempotent. The sharp s is found as "ss", all four Turkish
    letters i as "i". Traditional and simplified Chinese characters stay different.
    """
    while True:
        folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        folded = folded.translate(_SAME).replace("i\u0307", "i")
        if folded == text:
            return text
        text = folded


def name_keys(raw: bytes, label: bytes | str | None) -> set[str]:
    """Make the search keys of a person name (PS3.5 6.2, PN): one per value, component group and plausible reading.

    A key is folded, its components joined by ``^`` without spaces around them or empty ones at the end, and at most
    `MAX_KEY_LENGTH` characters long.
    """
    return {key[:MAX_KEY_LENGTH] for text in alternatives(raw, label) for key in _component_groups(text)}


def name_patterns(raw: bytes, label: bytes | str | None) -> list[str]:
    """Make the patterns of a person name key in a query, like `name_keys`, with the wildcards ``*`` and ``?`` kept.

    Any key that `matches` any of the patterns is a match (PS3.4 C.2.2.2). No pattern means universal matching.
    """
    patterns = (pattern for text in alternatives(raw, label) for pattern in _component_groups(text))
    return list(dict.fromkeys(p if "*" in p or "?" in p else p[:MAX_KEY_LENGTH] for p in patterns))


def _component_groups(text: str) -> Iterator[str]:
    for group in _BETWEEN_GROUPS.split(text):
        key = "^".join(fold(component) for component in group.split("^")).rstrip("^")
        if key:
            yield key


def matches(pattern: str, text: str) -> bool:
    """Match folded texts with wildcards (PS3.4 C.2.2.2.4): ``*`` is any run of characters, ``?`` any one character.

    Each part between two asterisks is looked for once, from the left, so that no pattern is slow.
    """
    first, *others = pattern.split("*")
    if not others:
        return len(first) == len(text) and _find(first, text, 0, len(text)) == 0
    if len(pattern) - len(others) > len(text):
        return False
    *middle, last = others
    end = len(text) - len(last)
    if _find(first, text, 0, len(first)) < 0 or _find(last, text, end, len(text)) < 0:
        return False
    position = len(first)
    for part in middle:
        position = _find(part, text, position, end)
        if position < 0:
            return False
        position += len(part)
    return True


def _find(part: str, text: str, start: int, end: int) -> int:
    """Find where `part`, in which ``?`` is any character, begins first in ``text[start:end]``; -1 if nowhere."""
    if "?" not in part:
        return text.find(part, start, end)
    pattern = re.compile("".join("." if character == "?" else re.escape(character) for character in part), re.DOTALL)
    found = pattern.search(text, start, end)
    return found.start() if found else -1
