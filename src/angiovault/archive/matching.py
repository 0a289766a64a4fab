"""Matching of one attribute (PS3.4 C.2.2.2): keys as a query gives them, against values as they are stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from angiovault.archive import elements, index, names
from angiovault.archive.elements import Elements

_WILD: Final = re.compile(r"[*?]")
_NO_WILDCARDS: Final = frozenset(("DA", "TM", "DT", "UI", "IS", "DS", "US", "UL", "SS", "SL", "SQ", "AS", "AT", "FD", "FL"))
_NUMERIC: Final = frozenset(("IS", "DS"))
_BINARY: Final = {"US": 2, "SS": 2, "UL": 4, "SL": 4}


def fixed_beginning(pattern: str) -> str:
    """Return what comes before the first wildcard; the pattern itself when it has none."""
    return _WILD.split(pattern, maxsplit=1)[0]


@dataclass(frozen=True)
class Key:
    """One matching key.

    Attributes
    ----------
    vr : str
        Value representation.
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
        """Values of a text key: decoded, folded, without empty ones."""
        folded = (names.fold(part) for part in names.decode(self.value, self.label).split("\\"))
        return tuple(part for part in folded if part)

    @cached_property
    def universal(self) -> bool:
        """Whether the key matches everything: no value, or nothing but ``*``."""
        if self.vr == "SQ":
            return not self.items or all(key.universal for key in self.items[0].values())
        stripped = self.value.strip(b" \0")
        return not stripped or (self.vr not in _NO_WILDCARDS and set(stripped) <= set(b"*"))

    def uids(self) -> tuple[str, ...]:
        """Return the UIDs of a list (PS3.4 C.2.2.2.2)."""
        return tuple(
            uid for uid in (part.strip(" \0") for part in self.value.decode("latin-1").split("\\")) if uid
        )

    def patterns(self) -> tuple[str, ...]:
        """Return folded patterns, any of which may match (multiple values mean "or")."""
        return self.texts

    def name_patterns(self) -> list[str]:
        """Return folded patterns of a person name, any of which may match."""
        return names.name_patterns(self.value, self.label)

    def numbers(self) -> tuple[int, ...] | None:
        """Return the values of an integer string, ``None`` when they are none."""
        try:
            return tuple(int(part) for part in self.value.decode("ascii").strip(" \0").split("\\") if part.strip())
        except ValueError:
            return None

    def _limits(self) -> tuple[str, str]:
        text = self.value.decode("latin-1").strip(" \0")
        low, dash, high = text.partition("-")
        return (low.strip(), high.strip()) if dash else (low.strip(), low.strip())

    def date_range(self) -> tuple[str, str]:
        """Return (first, last) as YYYYMMDD, '' for an open end (PS3.4 C.2.2.2.5)."""
        low, high = self._limits()
        return index.date(low), index.date(high)

    def time_range(self) -> tuple[str, str]:
        """Return (first, last) as HHMMSS.FFFFFF, '' for an open end; a short time means all of its hour or minute."""
        low, high = self._limits()
        last = high.replace(":", "")
        whole, _, fraction = last.partition(".")
        upper = f"{whole[:6].ljust(6, '9')}.{fraction[:6].ljust(6, '9')}" if last else ""
        return index.time_of_day(low), upper


def all_match(keys: Mapping[int, Key], values: Elements, label: bytes) -> bool:
    """Return whether every key matches the stored values."""
    return all(key.universal or _matches(tag, key, values.get(tag), label) for tag, key in keys.items())


def _matches(tag: int, key: Key, stored: tuple[str, bytes] | None, label: bytes) -> bool:
    vr, value = stored or (key.vr, b"")
    if vr == "SQ":
        items = elements.sequence_items(tag, value) if value else []
        return any(_item_matches(key.items[0], item, label) for item in items)
    if vr == "PN":
        have = names.name_keys(value, label)
        return any(names.matches(pattern, name) for pattern in key.name_patterns() for name in have)
    text = value.decode("latin-1").strip(" \0")
    if vr == "UI":
        return any(uid in key.uids() for uid in text.split("\\"))
    if vr == "DA":
        return _within(index.date(text), key.date_range())
    if vr == "TM":
        return _within(index.time_of_day(text), key.time_range())
    if vr in _BINARY:
        size = _BINARY[vr]
        return key.value[:size] == value[:size]
    if vr in _NUMERIC:
        return any(_number(part) == _number(wanted) for part in text.split("\\") for wanted in key.texts)
    have_texts = [names.fold(part) for part in names.decode(value, label).split("\\")]
    return any(names.matches(pattern, have_text) for pattern in key.patterns() for have_text in have_texts)


def _item_matches(keys: Mapping[int, Key], item: Any, label: bytes) -> bool:
    values: Elements = {}
    for tag in keys:
        if tag in item:
            element = item.get_item(tag)
            raw = element.value
            if element.VR == "SQ":
                return all(key.universal for key in keys.values())  # deeper nesting is matched as universal
            values[tag] = (element.VR, raw if isinstance(raw, bytes) else str(raw or "").encode())
    return all_match(keys, values, label)


def _within(text: str, limits: tuple[str, str]) -> bool:
    low, high = limits
    return bool(text) and (not low or text >= low) and (not high or text <= high)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()
