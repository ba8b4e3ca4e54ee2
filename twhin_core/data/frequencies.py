"""How often each node is at an end of the training edges, counted in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twhin_core.data.edges import Edges
from twhin_core.schema import Schema

Array = npt.NDArray[np.int64]

_NOTHING = np.empty(0, np.int64), np.empty(0, np.int64)


@dataclass(frozen=True)
class Frequencies:
    """Counts of the (group, node) pairs that occur: 16 bytes a pair, whatever the number of edges or rows."""

    key: Array
    """[n], ascending: group · rows + node."""
    count: Array
    """[n], each above 0."""
    rows: int
    """Rows of the largest table."""

    def of(self, group: Array, node: Array) -> Array:
        """How often each node occurs in its group; 0 where it does not."""
        wanted = group * self.rows + node
        place = np.searchsorted(self.key, wanted)
        found = self.key.take(place, mode="clip") == wanted
        return np.where(found, self.count.take(place, mode="clip"), 0)

    def totals(self, groups: int) -> Array:
        """Σ count of each of the groups 0 … groups - 1: [groups]."""
        sums = np.concatenate([[0], self.count.cumsum()])
        return np.diff(sums[np.searchsorted(self.key, np.arange(groups + 1) * self.rows)])

    def regrouped(self, group: Array) -> Frequencies:
        """With old group g now in `group[g]`, and the counts that so come together added up."""
        old, node = np.divmod(self.key, self.rows)
        return Frequencies(*added(group[old] * self.rows + node, self.count), self.rows)


def end(relation: Array, side: str) -> Array:
    """The group of the nodes on one side of a relation."""
    return 2 * relation + (side == "rhs")


def count_ends(chunks: Iterable[Edges], schema: Schema) -> Frequencies:
    """How often each node is on each side of each relation (the group `end(relation, side)`), weights left aside.

    Holds one chunk of edges at a time, and about three times the counts.
    """
    rows = max(schema.tables.values())
    runs = [_NOTHING]
    for edges in chunks:
        keys = [end(edges.rel, side) * rows + node for side, node in (("lhs", edges.lhs), ("rhs", edges.rhs))]
        runs.append(added(np.concatenate(keys), np.ones(2 * len(edges), np.int64)))
        # Runs of at least twice the length of the next: so each count is moved only a few times.
        while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):
            runs.append(_both(runs.pop(), runs.pop()))
    return merge([Frequencies(*run, rows) for run in reversed(runs)])


def merge(parts: list[Frequencies]) -> Frequencies:
    """The counts of several parts of the edges, added up."""
    total = _NOTHING
    for part in parts:
        total = _both(total, (part.key, part.count))
    return Frequencies(*total, parts[0].rows)


def _both(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    return added(np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]]))


def added(keys: Array, counts: Array) -> tuple[Array, Array]:
    """Each key once, ascending, and the sum of its counts."""
    order = keys.argsort(kind="stable")  # quick on a few sorted runs
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(counts, first) if len(first) else counts
