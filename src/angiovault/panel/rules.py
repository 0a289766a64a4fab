"""What a setting may hold, as data for the script that checks while a person types; made of the kinds in `config`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from angiovault.config import Kind, Setting
from angiovault.inifile import ConfigError
from angiovault.panel.web import Message, said

_NUMBER = re.compile(r"a whole number from ([0-9]+) to ([0-9]+)")
_CHOICE = re.compile(r"one of: (.+)")


def rule_of(kind: Kind) -> dict[str, Any]:
    """Return a kind as data: its `kind`, and the limits or words where it has some."""
    number, choice = _NUMBER.match(kind.allowed), _CHOICE.fullmatch(kind.allowed)
    if number:
        return {"kind": "number", "low": int(number[1]), "high": int(number[2])}
    if choice:
        return {"kind": "choice", "words": choice[1].split(", ")}
    return {"kind": kind.type.replace(" ", "-").lower()}


def rules_of(settings: Sequence[Setting]) -> dict[str, dict[str, Any]]:
    """Return the rule of each setting."""
    return {
        row.name: {**rule_of(row.kind), "empty": _takes_nothing(row), "default": row.default or ""} for row in settings
    }


def _takes_nothing(row: Setting) -> bool:
    try:
        row.read("", "", Path())
    except ConfigError:
        return False
    return True


def problem_of(row: Setting, text: str, base: Path) -> Message | None:
    """Return why a setting cannot hold a text, None when it can."""
    try:
        row.read(text, row.name, base)
    except ConfigError:
        rule = rule_of(row.kind)
        return said(f"wrong.{rule['kind']}", **{name: rule[name] for name in ("low", "high") if name in rule})
    return None
