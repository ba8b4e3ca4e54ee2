"""Operators and export formats that other packages provide as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from twhin_core.errors import UserError

OPERATORS, EXPORT_FORMATS = "twhin.operators", "twhin.export_formats"
"""Entry point groups: a subclass of `Operator`; a function like `write` in twhin_core/export/npy.py."""


def check_name(group: str, name: str, built_in: tuple[str, ...]) -> str:
    """Returns `name` if it is built in or an entry point of the group. Raises ValueError if it is neither."""
    if name not in built_in and not entry_points(group=group, name=name):
        provided = sorted(entry_points(group=group).names)
        raise ValueError(
            f"input should be {', '.join(map(repr, (*built_in, *provided)))}; no package provides {name!r}"
        )
    return name


def load(group: str, name: str) -> Any:
    """The object that an entry point refers to. Raises UserError if it does not load or is no longer installed."""
    entry = next(iter(entry_points(group=group, name=name)), None)
    if entry is None:
        raise UserError(f"{name}: no installed package has this entry point of {group}")
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"{name}: the entry point {entry.value} of {group} does not load: {error}") from error
