"""Reads vectors from exported Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from twhin_core.parquet import StoredFile, read_batches, read_row_groups

Floats = npt.NDArray[np.float32]

COLUMN = "embedding"
BATCH_ROWS, BUFFER_BYTES = 8192, 1 << 20


class ParquetRows:
    """The concatenated rows of all files; implements `Rows` of `twhin_core/vectors/rows.py`.

    Keeps the last row group in memory, since the next rows are likely in it.
    """

    def __init__(self, files: Sequence[StoredFile], dim: int, column: str = COLUMN) -> None:
        """`column`: a fixed-size list of `dim` floats."""
        self._files, self.dim, self._column = files, dim, column
        self.size = sum(file.rows for file in files)
        self._first, self._vectors = 0, np.empty((0, dim), np.float32)
        self._buffer = self._vectors

    def read(self, start: int, stop: int) -> Tensor:
        assert 0 <= start <= stop <= self.size
        out = torch.empty(stop - start, self.dim)
        for first, vectors in self._groups(np.arange(start, stop)):
            begin, end = max(start, first), min(stop, first + len(vectors))
            out.numpy()[begin - start : end - start] = vectors[begin - first : end - first]
        return out

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
        """(first row, vectors) of every row group that contains some of the rows."""
        if len(ascending) and self._first <= ascending[0] and ascending[-1] < self._first + len(self._vectors):
            yield self._first, self._vectors
            return

        def has_rows(start: int, stop: int) -> bool:
            first, last = np.searchsorted(ascending, [start, stop])
            return bool(first < last)

        for first, vectors in read_row_groups(self._files, has_rows, self._decode, BUFFER_BYTES):
            self._first, self._vectors = first, vectors
            yield first, vectors

    def _decode(self, file: pq.ParquetFile, group: int) -> Floats:
        """Decodes a row group to a reused buffer in small batches: allocating memory takes longer than decoding."""
        self._vectors = self._buffer[:0]  # the buffer's old content becomes invalid
        count = file.metadata.row_group(group).num_rows
        if len(self._buffer) < count:
            self._buffer = np.empty((count, self.dim), np.float32)
        row = 0
        for batch in read_batches(file, group, [self._column], BATCH_ROWS):
            self._buffer[row : row + len(batch)] = batch[self._column].flatten().to_numpy().reshape(-1, self.dim)
            row += len(batch)
        return self._buffer[:count]
