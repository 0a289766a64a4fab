"""What a setting may hold, as data for the script that checks while a person types; made of the kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from angiovault.config import Setting
from angiovault.inifile import ConfigError
from angiovault.kinds import Kind
from angiovault.panel.web import Message, said


def rule_of(kind: Kind) -> dict[str, Any]:
    """Return a kind as data: its `kind`, and the limits or words where it has some."""
    if kind.limits:
        return {"kind": "number", "low": kind.limits[0], "high": kind.limits[1]}
    if kind.words:
        return {"kind": "choice", "words": list(kind.words)}
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
