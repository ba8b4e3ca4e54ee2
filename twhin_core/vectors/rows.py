"""The vectors of a table, from any storage, read block by block so that a table need not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.data.prefetch import Ahead

Ints = npt.NDArray[np.int64]


class Rows(Protocol):
    """The vectors of a table, such as `Checkpoint.rows(table)`."""

    @property
    def size(self) -> int:
        """The number of rows."""

    @property
    def dim(self) -> int:
        """The length of a row."""

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop): float32 [stop - start, dim]."""
        ...

    def gather(self, rows: Ints) -> Tensor:
        """The given rows, in any order: int64 [n] → float32 [n, dim]."""
        ...


class TensorRows:
    """Vectors in memory: float32 [size, dim]."""

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors
        self.size, self.dim = vectors.shape

    def read(self, start: int, stop: int) -> Tensor:
        return self._vectors[start:stop]

    def gather(self, rows: Ints) -> Tensor:
        return self._vectors[torch.from_numpy(rows)]


class SelectedRows:
    """A selection of the rows of a table."""

    def __init__(self, rows: Rows, size: int, index: Ints | None = None) -> None:
        """`index`: the selected rows, int64 [size]; None selects the first `size` rows."""
        self._rows, self._index, self.size, self.dim = rows, index, size, rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._rows.read(start, stop) if self._index is None else self._rows.gather(self._index[start:stop])

    def gather(self, rows: Ints) -> Tensor:
        return self._rows.gather(rows if self._index is None else self._index[rows])


class MappedRows:
    """The rows of a table, transformed by a function."""

    def __init__(self, rows: Rows, function: Callable[[Tensor, Ints], Tensor], dim: int | None = None) -> None:
        """`function`: vectors float32 [n, dim of `rows`] and their rows int64 [n] → float32 [n, dim].

        `dim`: None for that of `rows`.
        """
        self._rows, self._function, self.size, self.dim = rows, function, rows.size, dim or rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._function(self._rows.read(start, stop), np.arange(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        return self._function(self._rows.gather(rows), rows)


class WithColumn:
    """The rows of a table, each with one more number at its end."""

    def __init__(self, rows: Rows, column: Callable[[Ints], Tensor]) -> None:
        """`column`: rows int64 [n] → float32 [n]."""
        self._rows, self._column, self.size, self.dim = rows, column, rows.size, rows.dim + 1

    def read(self, start: int, stop: int) -> Tensor:
        return self._joined(self._rows.read(start, stop), np.arange(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        return self._joined(self._rows.gather(rows), rows)

    def _joined(self, vectors: Tensor, rows: Ints) -> Tensor:
        return torch.cat([vectors, self._column(rows)[:, None]], 1)


def blocks(rows: Rows, block_rows: int) -> Iterator[tuple[int, Tensor]]:
    """(start, vectors) of all rows in order, in blocks of `block_rows`. The next block is read while one is used.

    Keeps up to three blocks in memory.
    """

    def read() -> Generator[tuple[int, Tensor]]:
        for start in range(0, rows.size, block_rows):
            yield start, rows.read(start, min(start + block_rows, rows.size))

    with Ahead(read()) as ahead:
        yield from ahead
