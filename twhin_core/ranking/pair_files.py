"""Pairs of a query and a number, in a file for each part of the queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from twhin_core.ranking.queries import Ints

PAIRS_AT_ONCE = 1 << 20
"""Pairs that are kept in memory before they are written, 16 bytes each."""


class PairFiles:
    """Takes pairs in any order, and returns those of a part."""

    def __init__(self, folder: Path, part_of: Ints) -> None:
        """
        Args:
            folder: is created.
            part_of: [Q] the part of each query, or -1 if its pairs are not wanted.
        """
        folder.mkdir()
        self._folder, self._part_of = folder, part_of
        self._pairs = [np.empty((0, 2), np.int64)]

    def add(self, query: Ints, number: Ints) -> None:
        wanted = self._part_of[query] >= 0
        self._pairs.append(np.stack([query[wanted], number[wanted]], 1))
        if sum(map(len, self._pairs)) >= PAIRS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Appends the added pairs to the files."""
        pairs = np.concatenate(self._pairs)
        self._pairs = [pairs[:0]]
        part = self._part_of[pairs[:, 0]]
        order = np.argsort(part, kind="stable")
        pairs, part = pairs[order], part[order]
        for number in np.unique(part).tolist():
            first, last = np.searchsorted(part, [number, number + 1])
            with (self._folder / str(number)).open("ab") as file:
                pairs[first:last].tofile(file)

    def read(self, part: int) -> tuple[Ints, Ints]:
        """(query, number) of all pairs of a part that were flushed."""
        path = self._folder / str(part)
        pairs = np.fromfile(path, np.int64) if path.exists() else np.empty(0, np.int64)
        query, number = pairs.reshape(-1, 2).T
        return query, number
