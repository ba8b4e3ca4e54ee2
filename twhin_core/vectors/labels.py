"""Labels of nodes, which prepare wrote beside the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from twhin_core.graph.manifest import Manifest
from twhin_core.parquet import read_row_groups
from twhin_core.vectors.ids import hash_window


def has_labels(manifest: Manifest | None, table: str) -> bool:
    return manifest is not None and any(entry.name == table and entry.labels for entry in manifest.tables)


def read_labels(manifest: Manifest | None, root: str, table: str, names: Sequence[str]) -> dict[str, str]:
    """The labels of those nodes that have one, by id. Reads only the row groups that may have them.

    `manifest` is that of the run's graph, or None if prepare did not make it.
    """
    if manifest is None:
        return {}
    files = next(entry.labels for entry in manifest.tables if entry.name == table)
    size = sum(file.rows for file in files)
    windows = [hash_window(name, size) for name in names]
    groups = read_row_groups(
        [file.under(manifest.holder(root)) for file in files],
        lambda first, end: any(first < stop and start < end for start, stop in windows),
        lambda file, group: file.read_row_group(group, ["id", "label"]),
    )
    found: dict[str, str] = {}
    for _, rows in groups:
        chosen = rows.filter(pc.is_in(rows["id"], pa.array(names, pa.string())))
        found |= dict(zip(chosen["id"].to_pylist(), chosen["label"].to_pylist(), strict=True))
    return found
