"""Matching of one attribute (PS3.4 C.2.2.2): keys as a query gives them, against values as they are stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from angiovault.archive import adding, elements, names
from angiovault.archive.elements import Elements, Tree

Range = tuple[str, str]
"""First and last of a range in the form of the index, '' for an open end."""

_IGNORED: Final = b" \0\t\n\f\r\\*"
_IGNORED_IN_NAMES: Final = _IGNORED + b"^="
_WIDTHS: Final = {"US": 2, "SS": 2, "AT": 4, "UL": 4, "SL": 4, "FL": 4, "FD": 8}
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,16}(\.[0-9]*)?([eE][+-]?[0-9]{1,2})?")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,10}")
_DATE: Final = re.compile(r"[0-9]{8}|[0-9]{4}\.[0-9]{2}\.[0-9]{2}")
_TIME: Final = re.compile(r"[0-9]{2}(:?[0-9]{2}(:?[0-9]{2}(\.[0-9]{1,6})?)?)?")
# A hyphen before 0000 to 1400 begins an offset from UTC and not the end of a range (PS3.4 C.2.2.2.5).
_MOMENT: Final = r"([0-9]{4,14}(?:\.[0-9]{1,6})?)(?:[+-](?:0[0-9]|1[0-4])[0-5][0-9])?"
_MOMENTS: Final = re.compile(f"(?:{_MOMENT})?(?:(-)(?:{_MOMENT})?)?")

_STUDY_DATE: Final = 0x00080020
TIME_OF_DATE: Final = {
    0x00080012: 0x00080013,  # Instance Creation
    _STUDY_DATE: 0x00080030,
    0x00080021: 0x00080031,  # Series
    0x00080022: 0x00080032,  # Acquisition
    0x00080023: 0x00080033,  # Content
    0x00100030: 0x00100032,  # Patient's Birth
    0x00400244: 0x00400245,  # Performed Procedure Step Start
    0x00700082: 0x00700083,  # Presentation Creation
}
"""Date -> time, the pairs that combined date-time matching takes as one (PS3.4 C.2.2.2.5)."""


@dataclass(frozen=True)
class Key:
    """One matching key.

    Attributes
    ----------
    vr : str
        Value representation of the attribute.
    value : bytes
        The encoded value as it came.
    label : bytes
        Specific Character Set of the query.
    items : tuple[dict[int, Key], ...]
        For a sequence: the keys of its items; only the first counts (PS3.4 C.2.2.2.6).
    """

    vr: str
    value: bytes = b""
    label: bytes = b""
    items: tuple[Mapping[int, Key], ...] = field(default=())

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Values of a text key: decoded, folded, without empty ones and without the same one twice."""
        folded = (names.fold(part) for part in names.decode(self.value, self.label).split("\\"))
        return tuple(dict.fromkeys(part for part in folded if part))

    @cached_property
    def universal(self) -> bool:
        """Whether the key matches everything (PS3.4 C.2.2.2.3): no value, or nothing but ``*``."""
        if self.vr == "SQ":
            return not self.items or all(key.universal for key in self.items[0].values())
        if self.vr in _WIDTHS:
            return not self.value
        if not self.value.strip(_IGNORED_IN_NAMES if self.vr == "PN" else _IGNORED):
            return True
        if self.vr == "PN":
            return bool(self._name_patterns) and not self.patterns
        return any(set(text) == {"*"} for text in self.texts)

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """Folded patterns, any of which may match: several values mean "or"."""
        if self.vr != "PN":
            return tuple(dict.fromkeys(simplified(text) for text in self.texts))
        patterns: dict[str, None] = {}
        for pattern in self._name_patterns:
            if not set(pattern) <= set("*^"):  # "*=ZHANG*" asks for a ZHANG in any component group, not for everybody
                patterns |= dict.fromkeys(_with_components_left_out(simplified(pattern)))
        return tuple(patterns)

    @cached_property
    def _name_patterns(self) -> list[str]:
        return names.name_patterns(self.value, self.label)

    @cached_property
    def uid_set(self) -> dict[str, None]:
        """The UIDs of a list (PS3.4 C.2.2.2.2) in their order, each once."""
        parts = (part.strip(" \0") for part in self.value.decode("latin-1").split("\\"))
        return dict.fromkeys(uid for uid in parts if uid)

    def uids(self) -> tuple[str, ...]:
        """Return the UIDs of a list, each once."""
        return tuple(self.uid_set)

    @cached_property
    def integers(self) -> tuple[int, ...]:
        """The values of an integer string; what is no integer is left out."""
        return tuple(int(text) for text in self.texts if _INTEGER.fullmatch(text))

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges of a date, time or date-time key, any of which may match; what is malformed is left out.

        A single value is the range of its own precision: the time 10 is all of the hour, and so is the end of 08-10.
        """
        find = {"DA": _date_range, "TM": _time_range, "DT": _moment_range}[self.vr]
        found = (find(part.strip(" \0")) for part in self.value.decode("latin-1").split("\\"))
        return tuple(limits for limits in found if limits is not None)


def simplified(pattern: str) -> str:
    """Return an equal pattern without needless asterisks."""
    return re.sub(r"\*+", "*", pattern)


def _with_components_left_out(pattern: str) -> list[str]:
    """Return patterns that also fit names whose last components are left out (PS3.5 6.2.1): "A^*" fits "A"."""
    end = len(pattern)
    while pattern.endswith("^*", 0, end):
        end -= 2
    return [pattern] if end == len(pattern) else [pattern[:end] + "^*", pattern[:end].rstrip("^")]


def _limits(text: str, form: re.Pattern[str]) -> Range | None:
    low, dash, high = (part.strip() for part in text.partition("-"))
    if not dash:
        high = low
    good = all(form.fullmatch(part) for part in (low, high) if part) and (dash or low)
    return (low, high) if good else None


def _date_range(text: str) -> Range | None:
    limits = _limits(text, _DATE)
    return limits and (adding.date(limits[0]), adding.date(limits[1]))


def _time_range(text: str) -> Range | None:
    limits = _limits(text, _TIME)
    return limits and (adding.time_of_day(limits[0]), _filled(limits[1].replace(":", ""), 6, "9"))


def _moment_range(text: str) -> Range | None:
    match = _MOMENTS.fullmatch(text)
    if not match or not text:
        return None
    low, dash, high = match.groups(default="")
    return _filled(low, 14, "0"), _filled(high if dash else low, 14, "9")


def _filled(text: str, length: int, digit: str) -> str:
    """Return a time or date-time with all its digits, '' if there is none."""
    whole, _, fraction = text.partition(".")
    return f"{whole.ljust(length, digit)}.{fraction.ljust(6, digit)}" if text else ""


def combined(keys: Mapping[int, Key]) -> dict[int, tuple[Range, Range]]:
    """Return the pairs of keys that combined date-time matching takes as one: tag of the date -> both ranges."""
    pairs = {}
    for date, time in TIME_OF_DATE.items():
        ranges = [keys[tag].ranges for tag in (date, time) if tag in keys and not keys[tag].universal]
        if len(ranges) == 2 and len(ranges[0]) == len(ranges[1]) == 1:
            pairs[date] = (ranges[0][0], ranges[1][0])
    return pairs


def all_match(
    keys: Mapping[int, Key], values: Elements, label: bytes, pairs: Mapping[int, tuple[Range, Range]] | None = None
) -> bool:
    """Return whether every key matches the stored values.

    Parameters
    ----------
    keys : Mapping[int, Key]
        The keys.
    values : Elements
        The stored values.
    label : bytes
        Specific Character Set of the stored values.
    pairs : Mapping[int, tuple[Range, Range]], optional
        What `combined` returned if dates and times are to be matched together.
    """
    pairs = pairs or {}
    together = {tag for date in pairs for tag in (date, TIME_OF_DATE[date])}
    alone = all(
        key.universal or _matches(key, values.get(tag), label) for tag, key in keys.items() if tag not in together
    )
    return alone and all(_moment_matches(date, values, pairs[date]) for date in pairs if date in keys)


def _moment_matches(date: int, values: Elements, ranges: tuple[Range, Range]) -> bool:
    (first_date, last_date), (first_time, last_time) = ranges
    on, at = adding.date(_text(values.get(date))), adding.time_of_day(_text(values.get(TIME_OF_DATE[date])))
    late_enough = on > first_date or (on == first_date and at >= first_time)
    early_enough = not last_date or on < last_date or (on == last_date and (not last_time or "" < at <= last_time))
    return bool(on) and late_enough and early_enough


def _text(stored: tuple[str, bytes] | None) -> str:
    return stored[1].decode("latin-1").strip(" \0") if stored else ""


def _matches(key: Key, stored: tuple[str, bytes] | None, label: bytes) -> bool:
    vr, value = stored or (key.vr, b"")
    if key.vr == "SQ":
        return any(_item_matches(key.items[0], item, label) for item in elements.items(value))
    if key.vr == "PN":
        have = names.name_keys(value, label)
        return any(names.matches(pattern, name) for pattern in key.patterns for name in have)
    if key.vr in _WIDTHS:
        return bool(_numbers(key.value, _WIDTHS[key.vr]) & _numbers(value, _WIDTHS[key.vr]))
    text = _text((vr, value))
    if key.vr == "UI":
        return any(uid.strip(" \0") in key.uid_set for uid in text.split("\\"))
    if key.vr == "DA":
        return _within(adding.date(text), key.ranges)
    if key.vr == "TM":
        return _within(adding.time_of_day(text), key.ranges)
    if key.vr == "DT":
        match = re.match(_MOMENT, text)
        return match is not None and _within(_filled(match[1], 14, "0"), key.ranges)
    if key.vr in ("IS", "DS"):
        return any(_number(part) == _number(wanted) for part in text.split("\\") for wanted in key.texts)
    have_texts = [names.fold(part) for part in names.decode(value, label).split("\\")]
    return any(names.matches(pattern, have_text) for pattern in key.patterns for have_text in have_texts)


def _item_matches(keys: Mapping[int, Key], item: Tree, label: bytes) -> bool:
    own = item.get(elements.SPECIFIC_CHARACTER_SET)
    values = {
        tag: (item[tag].vr, elements.encode_items(item[tag].items) if item[tag].vr == "SQ" else item[tag].value)
        for tag in keys
        if tag in item
    }
    return all_match(keys, values, own.value.strip(b" \0") if own else label)


def _within(text: str, ranges: tuple[Range, ...]) -> bool:
    return bool(text) and any((not low or text >= low) and (not high or text <= high) for low, high in ranges)


def _numbers(value: bytes, width: int) -> set[bytes]:
    return {value[start : start + width] for start in range(0, len(value) - width + 1, width)}


def _number(text: str) -> float | str:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else text
