"""Vectors in exported Parquet files, of which the row groups that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.parquet import open_parquet

Floats = npt.NDArray[np.float32]

COLUMN = "embedding"


class ParquetRows:
    """The rows of all files, one after the other; `Rows` of `twhin_core/vectors/rows.py`.

    Memory holds the result and a row group, the last one, in which the next rows are likely to be.
    """

    def __init__(self, files: Sequence[tuple[str, int]], dim: int) -> None:
        """`files`: the URL and the number of rows of each."""
        self._files, self.dim = files, dim
        self.size = sum(rows for _, rows in files)
        self._last: tuple[int, Floats] = 0, np.empty((0, dim), np.float32)

    def read(self, start: int, stop: int) -> Tensor:
        assert 0 <= start <= stop <= self.size
        return self.gather(np.arange(start, stop))

    def gather(self, rows: npt.NDArray[np.int64]) -> Tensor:
        out = torch.empty(len(rows), self.dim)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        assert not len(rows) or (ascending[0] >= 0 and ascending[-1] < self.size)
        for first, vectors in self._groups(ascending):
            inside = slice(*np.searchsorted(ascending, [first, first + len(vectors)]))
            out.numpy()[order[inside]] = vectors[ascending[inside] - first]
        return out

    def _groups(self, ascending: npt.NDArray[np.int64]) -> Iterator[tuple[int, Floats]]:
        """(first row, vectors) of every row group that has some of the rows."""
        first, vectors = self._last
        if len(ascending) and first <= ascending[0] and ascending[-1] < first + len(vectors):
            yield self._last
            return
        end = 0
        for url, rows in self._files:
            first, end = end, end + rows
            if not _has(ascending, first, end):
                continue
            with open_parquet(url) as file:
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    if _has(ascending, first, first + count):
                        lists = file.read_row_group(group, [COLUMN])[COLUMN].combine_chunks()
                        self._last = first, lists.flatten().to_numpy().reshape(count, self.dim)
                        yield self._last
                    first += count


def _has(ascending: npt.NDArray[np.int64], start: int, stop: int) -> bool:
    first, last = np.searchsorted(ascending, [start, stop])
    return bool(first < last)
