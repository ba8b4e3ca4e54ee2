"""Operators, export formats and business rules that other packages provide as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from twhin_core.errors import UserError

OPERATORS, EXPORT_FORMATS, RULES = "twhin.operators", "twhin.export_formats", "twhin.rules"
"""Entry point groups: a subclass of `Operator`; a function like `write` in twhin_core/export/npy.py; a function like
`Keep` in twhin_core/embeddings/rule.py."""


def check_name(group: str, name: str, built_in: tuple[str, ...]) -> str:
    """Returns `name` if it is built in or an entry point of the group. Raises ValueError if it is neither."""
    if name not in built_in and not entry_points(group=group, name=name):
        known = (*built_in, *sorted(entry_points(group=group).names))
        others = f"input should be {', '.join(map(repr, known))}; " if known else ""
        raise ValueError(f"{others}no package provides {name!r}")
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


def release(group: str, name: str) -> str | None:
    """The release of the package that an entry point comes from."""
    entry = next(iter(entry_points(group=group, name=name)), None)
    return None if entry is None or entry.dist is None else entry.dist.version
