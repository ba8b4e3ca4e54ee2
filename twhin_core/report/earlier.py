"""What training took from an earlier version, and what it held near it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twhin_core import storage
from twhin_core.records import find_whole
from twhin_core.report.figures import Table
from twhin_core.training.earlier import ANCHOR, EARLIER, START


@dataclass(frozen=True)
class FromEarlier:
    """Sentences, and a table of the rows by table."""

    said: list[str]
    rows: Table | None


def collect(root: str) -> FromEarlier | None:
    """What `training/earlier.json` says; None if the run neither started from another version nor stayed near one."""
    records: dict[str, Any] = (
        find_whole(storage.join(root, EARLIER), "report: shows nothing of the earlier version") or {}
    )
    start, anchor = records.get(START, {}), records.get(ANCHOR, {})
    said, rows = [], None
    if "tables" in start:
        relations = ", ".join(f"{len(names):,} {kind}" for kind, names in start["relations"].items())
        said.append(f"Started from step {start['step']:,} of {start['root']}. Relations: {relations}.")
        kinds = {
            "matched": "matched",
            "untrained": "matched, without edges then",
            "new": "new",
            "from_neighbors": "started from neighbors",
            "gone": "gone",
        }
        rows = Table(
            ["table", *kinds.values()],
            [[name, *(f"{of[kind]:,}" for kind in kinds)] for name, of in start["tables"].items()],
        )
    if "tables" in anchor:
        held = ", ".join(f"{count:,} of {name}" for name, count in anchor["tables"].items())
        said.append(f"Held near step {anchor['step']:,} of {anchor['root']}: {held}.")
    return FromEarlier(said, rows) if said else None
