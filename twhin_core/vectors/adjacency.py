"""The edges of a relation by the nodes at one side, mapped from a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twhin_core.data.files import EdgeFiles
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors.matching import reserve
from twhin_core.vectors.rows import Ints

End = tuple[int, Side]
"""A relation, and one of its sides."""


class Adjacency(NamedTuple):
    """For N rows of a table, the rows at the other ends of their edges."""

    starts: Ints
    """[N + 1] the first edge of each row in `others`."""
    others: Ints
    """[edges], those of a row in the order in which they were read."""

    def of(self, row: int) -> Ints:
        return self.others[self.starts[row] : self.starts[row + 1]]

    def of_each(self, rows: Ints) -> tuple[Ints, Ints]:
        """(position in `rows`, row at the other end) of the edges of many rows, in the order of these."""
        count = self.starts[rows + 1] - self.starts[rows]
        position = np.repeat(np.arange(len(rows)), count)
        first = self.starts[rows] - (count.cumsum() - count)
        return position, self.others[first[position] + np.arange(len(position))]


def adjacency(rows: Ints, others: Ints, size: int) -> Adjacency:
    """Pairs [n] of a row and another one, by the first, in memory. `size`: how many rows there are."""
    starts = np.concatenate([[0], np.bincount(rows, minlength=size).cumsum()])
    return Adjacency(starts, others[np.argsort(rows, kind="stable")])


def read_adjacencies(
    splits: Iterable[EdgeFiles], schema: Schema, ends: Iterable[End], folder: Path
) -> dict[End, Adjacency]:
    """The edges of relations by the nodes at one of their sides. Reads all edges twice.

    Needs 16 bytes of memory per row. The edges are in files in `folder`, which may be removed when this returns.

    Raises:
        StorageRefused: there is no room in the folder.
        UserError: an edge is invalid, or a file is broken.
    """
    files, ends = list(splits), list(ends)
    counts = {(rel, side): np.zeros(schema.rows[side][rel] + 1, np.int64) for rel, side in ends}
    for edges in (edges for of in files for edges in of.chunks()):
        for rel, side in ends:
            given = getattr(edges, side)[edges.rel == rel]
            rows, count = np.unique(given, return_counts=True)
            counts[rel, side][rows + 1] += count
    found = {}
    for number, (end, of_end) in enumerate(counts.items()):
        starts = np.cumsum(of_end)
        path = folder / f"{number}.known"
        reserve(path, 8 * max(int(starts[-1]), 1))  # an empty file cannot be mapped
        found[end] = Adjacency(starts, np.memmap(path, np.int64, "r+"))
    free = {end: of.starts.copy() for end, of in found.items()}
    for edges in (edges for of in files for edges in of.chunks()):
        for rel, side in ends:
            is_of = edges.rel == rel
            _fill(
                found[rel, side].others,
                free[rel, side],
                getattr(edges, side)[is_of],
                getattr(edges, OTHER[side])[is_of],
            )
    return found


def _fill(others: Ints, free: Ints, given: Ints, other: Ints) -> None:
    """Puts each edge at the first free place of its row. `free`: [N + 1] these places, which it moves on."""
    order = np.argsort(given, kind="stable")
    rows, first, count = np.unique(given[order], return_index=True, return_counts=True)
    place = np.repeat(free[rows] - first, count) + np.arange(len(order))
    others[place] = other[order]
    free[rows] += count
