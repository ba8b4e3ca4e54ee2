"""Operators and export formats that another package brings, as entry points of its own."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from twhin_core.errors import UserError

OPERATORS, EXPORT_FORMATS = "twhin.operators", "twhin.export_formats"
"""Groups of entry points: a subclass of `Operator`; a function like `write` in twhin_core/export/npy.py."""


def check_name(group: str, name: str, ours: tuple[str, ...]) -> str:
    """`name`, if it is one of `ours` or an entry point of the group. Raises ValueError if it is neither."""
    if name not in ours and not _find(group, name):
        theirs = sorted(entry_points(group=group).names)
        raise ValueError(f"input should be {', '.join(map(repr, (*ours, *theirs)))}; no package brings {name!r}")
    return name


def load(group: str, name: str) -> Any:
    """What the entry point refers to. Raises UserError if it does not load or is no longer installed."""
    found = _find(group, name)
    if not found:
        raise UserError(f"{name}: no installed package has this entry point of {group}")
    (entry, *_) = found
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"{name}: the entry point {entry.value} of {group} does not load: {error}") from error


def _find(group: str, name: str) -> list[EntryPoint]:
    return list(entry_points(group=group, name=name))
