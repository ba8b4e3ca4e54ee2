"""At which vectors from outside rows started."""

from __future__ import annotations

from twhin_core import storage
from twhin_core.records import find_whole
from twhin_core.training.outside_record import RECORD, OutsideEntry


def collect(root: str) -> list[str]:
    """A sentence for each table that started at some: what `training/initial.json` says."""
    found = find_whole(storage.join(root, RECORD), "report: shows nothing of vectors from outside") or {}
    return [f"{table}: {OutsideEntry.model_validate(entry).said}." for table, entry in found.items()]
