"""Ids and vectors that are held for many queries: ids in memory, vectors mapped from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from twhin_core.vectors.ids import IDS_PER_BATCH, SCHEMA, Ids, Ints, NumberedIds, StoredIds
from twhin_core.vectors.matching import reserve
from twhin_core.vectors.rows import Rows, TensorRows, blocks

BLOCK_BYTES = 16 << 20


class HeldIds:
    """The ids of a table in memory. Finds one in microseconds, by its hash or by bisection."""

    def __init__(self, ids: Ids) -> None:
        self.size, self.index = ids.size, ids.index
        parts = [batch["id"].cast(pa.large_string()) for batch in ids.batches(IDS_PER_BATCH)]
        self._names = pa.concat_arrays([pa.array([], pa.large_string()), *parts])
        self._windows = ids.windows if isinstance(ids, StoredIds) and ids.is_hashed else None
        self._order: Ints = np.empty(0, np.int64)
        """Positions in the order of their ids, as bytes; only where hashes do not say where an id is."""
        if self._windows is None:
            self._order = pc.array_sort_indices(self._names).to_numpy().astype(np.int64)

    def find(self, name: str) -> int | None:
        wanted = pa.scalar(name, pa.large_string())
        for start, stop in [self._bisect(name)] if self._windows is None else self._windows(name):
            place = pc.index(self._names.slice(start, stop - start), wanted).as_py()
            if place >= 0:
                return int(start + place)
        return None

    def _bisect(self, name: str) -> tuple[int, int]:
        """Positions [start, stop) of the first id that is not before `name`."""
        letters, first, last = name.encode(), 0, self.size
        while first < last:
            middle = (first + last) // 2
            if self._names[int(self._order[middle])].as_py().encode() < letters:
                first = middle + 1
            else:
                last = middle
        position = int(self._order[first]) if first < self.size else self.size
        return position, min(position + 1, self.size)

    def at(self, positions: Ints) -> list[str]:
        names: list[str] = self._names.take(pa.array(positions)).to_pylist()
        return names

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        for start in range(0, self.size, batch_rows):
            names = self._names.slice(start, batch_rows)
            index = np.arange(start, start + len(names)) if self.index is None else self.index[start:][: len(names)]
            yield pa.RecordBatch.from_arrays([pa.array(index), names.cast(pa.string())], schema=SCHEMA)


def hold_ids(ids: Ids) -> Ids:
    return ids if isinstance(ids, NumberedIds) else HeldIds(ids)


def hold_rows(rows: Rows, path: Path) -> Rows:
    """The same vectors, mapped from the file `path`, which it writes. The file may be removed while they are used.

    Raises:
        StorageRefused: there is no room for the file.
    """
    reserve(path, max(4 * rows.size * rows.dim, 1))  # an empty file cannot be mapped
    if not rows.size * rows.dim:
        return TensorRows(torch.empty(rows.size, rows.dim))
    held = torch.from_numpy(np.memmap(path, np.float32, "r+", shape=(rows.size, rows.dim)))
    for start, block in blocks(rows, max(1, BLOCK_BYTES // (4 * rows.dim))):
        held[start : start + len(block)] = block
    return TensorRows(held)
