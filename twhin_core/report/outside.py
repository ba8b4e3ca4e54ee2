"""At which vectors from outside rows started."""

from __future__ import annotations

from twhin_core.errors import Damaged
from twhin_core.progress import log
from twhin_core.training.outside_record import read_record


def collect(root: str) -> list[str]:
    """A sentence for each table that started at some: what `training/initial.json` says."""
    try:
        record = read_record(root)
    except Damaged as error:
        log.warning("report: shows nothing of vectors from outside: %s", error)
        return []
    return [f"{table}: {entry.said}." for table, entry in record.items()]
