"""Parts of tables that are too large to be looked at as a whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from twhin_core.vectors.rows import Rows

STRETCH = 32
"""Sampled rows come in stretches of neighbours, each of which is one read."""


def sample_rows(size: int, count: int, seed: int = 0, stretch: int = STRETCH) -> npt.NDArray[np.int64]:
    """At most `count` of `size` rows, ascending: all of them, or stretches of neighbours drawn at random."""
    if size <= count:
        return np.arange(size)
    starts = np.random.default_rng(seed).choice(size // stretch, max(1, count // stretch), replace=False) * stretch
    rows: npt.NDArray[np.int64] = (np.sort(starts)[:, None] + np.arange(stretch)).reshape(-1)
    return rows


class First:
    """The first rows of a table: those that are nodes, where a table was stated larger than its vocabulary."""

    def __init__(self, rows: Rows, size: int) -> None:
        self._rows, self.size, self.dim = rows, size, rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._rows.read(start, stop)

    def gather(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return self._rows.gather(rows)


class Chosen:
    """The rows `chosen` of a table, ascending, as a table of their own."""

    def __init__(self, rows: Rows, chosen: npt.NDArray[np.int64]) -> None:
        self._rows, self.chosen = rows, chosen
        self.size, self.dim = len(chosen), rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._rows.gather(self.chosen[start:stop])

    def gather(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return self._rows.gather(self.chosen[rows])
