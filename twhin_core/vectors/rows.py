"""The vectors of a table, wherever they lie, read block by block: no table needs to fit in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.data.prefetch import Ahead


class Rows(Protocol):
    """The vectors of a table; a checkpoint's are `Checkpoint.rows(table)`."""

    @property
    def size(self) -> int:
        """How many rows there are."""

    @property
    def dim(self) -> int:
        """Length of a row."""

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop): float32 [stop - start, dim]."""
        ...

    def gather(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """The given rows, in any order: int64 [n] → float32 [n, dim]."""
        ...


class TensorRows:
    """Vectors that are in memory: float32 [size, dim]."""

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors
        self.size, self.dim = vectors.shape

    def read(self, start: int, stop: int) -> Tensor:
        return self._vectors[start:stop]

    def gather(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return self._vectors[torch.from_numpy(rows)]


def blocks(rows: Rows, block_rows: int) -> Iterator[tuple[int, Tensor]]:
    """(start, vectors) of all rows in order, `block_rows` at a time; the next block is read while one is used.

    Memory holds up to three blocks.
    """

    def read() -> Generator[tuple[int, Tensor]]:
        for start in range(0, rows.size, block_rows):
            yield start, rows.read(start, min(start + block_rows, rows.size))

    with Ahead(read()) as ahead:
        yield from ahead
