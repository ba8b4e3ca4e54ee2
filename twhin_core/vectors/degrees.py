"""The training degrees that a prepared graph has of the rows of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from twhin_core.config import Config
from twhin_core.graph.manifest import find_manifest
from twhin_core.parquet import open_parquet
from twhin_core.vectors.ids import Ints
from twhin_core.vectors.matching import reserve

DEGREES_AT_ONCE = 1 << 17


def read_degrees(config: Config, root: str, table: str, rows: int, path: Path) -> Ints | None:
    """int64 [rows], mapped from the file `path`, which it writes; None if the run at `root` prepared no graph.

    Rows without an edge have a vector, but nothing was learned of them except that they are not the answers of others.

    Raises:
        UserError: the vocabulary is broken.
        StorageRefused: there is no room for the file.
    """
    if config.prepare is None:
        return None
    reserve(path, 8 * max(rows, 1))  # an empty file cannot be mapped
    degrees = np.memmap(path, np.int64, "r+")
    manifest = find_manifest(root)
    holder, entry = manifest.holder(root), next(one for one in manifest.tables if one.name == table)
    for file in (file.under(holder) for file in entry.files):
        with open_parquet(file.url, footer=file.footer) as parquet:
            for batch in parquet.iter_batches(DEGREES_AT_ONCE, columns=["index", "degree"]):
                degrees[batch["index"].to_numpy()] = batch["degree"].to_numpy()
    return degrees
