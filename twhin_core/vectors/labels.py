"""Labels of nodes, which prepare wrote beside the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from twhin_core.graph.manifest import Manifest
from twhin_core.parquet import open_parquet
from twhin_core.vectors.ids import hash_windows


def has_labels(manifest: Manifest | None, table: str) -> bool:
    return manifest is not None and any(entry.name == table and entry.labels for entry in manifest.tables)


def read_labels(manifest: Manifest | None, root: str, table: str, names: Sequence[str]) -> dict[str, str]:
    """The labels of those nodes that have one, by id. Reads only the row groups that may have them.

    `manifest` is that of the run's graph, or None if prepare did not make it.
    """
    if manifest is None:
        return {}
    entry = next(entry for entry in manifest.tables if entry.name == table)
    # Windows of indices, as not every node has a label. Forgotten nodes have kept theirs.
    windows = [window for name in set(names) for window in hash_windows(name, entry.sorted_runs)]
    found: dict[str, str] = {}
    for file in entry.labels:
        url, _, footer = file.under(manifest.holder(root))
        with open_parquet(url, footer=footer) as opened:
            for group in range(opened.num_row_groups):
                index = opened.metadata.row_group(group).column(0).statistics
                if any(start <= index.max and index.min < stop for start, stop in windows):
                    rows = opened.read_row_group(group, ["id", "label"])
                    chosen = rows.filter(pc.is_in(rows["id"], pa.array(names, pa.string())))
                    found |= dict(zip(chosen["id"].to_pylist(), chosen["label"].to_pylist(), strict=True))
    return found
