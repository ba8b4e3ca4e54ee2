"""Explicit negatives, looked up by query: the edges of the relations that are negatives of others, listed by lhs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twhin_core.data.edges import Edges
from twhin_core.schema import Schema

Array = npt.NDArray[np.int64]
Pairs = tuple[Array, Array]
"""The key of a list and a node in it, for each edge."""


@dataclass(frozen=True)
class NegativeLists:
    """The lists, in memory: 8 bytes for each edge and 16 for each list."""

    key: Array
    """[Q], ascending: relation of the negatives · rows + lhs."""
    start: Array
    """[Q + 1]: where each list begins in `node`, and where the last one ends."""
    node: Array
    """[E]: the rhs of each edge, ascending within a list."""
    rows: int
    """Rows of the largest table."""

    def of(self, rel: Array, lhs: Array) -> tuple[Array, Array]:
        """Where the list of each relation of negatives and lhs begins, and how many nodes it has, which may be 0."""
        wanted = rel * self.rows + lhs
        first, last = (np.searchsorted(self.key, wanted, side=side) for side in ("left", "right"))
        return self.start[first], self.start[last] - self.start[first]


def pairs_of(chunks: Iterable[Edges], schema: Schema) -> Pairs:
    """What the lists of some edges are made of."""
    rows, keys, nodes = max(schema.tables.values()), [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for edges in chunks:
        keys.append(edges.rel * rows + edges.lhs)
        nodes.append(np.array(edges.rhs))
    return np.concatenate(keys), np.concatenate(nodes)


def make_lists(parts: list[Pairs], schema: Schema) -> NegativeLists:
    """The lists of all parts of the edges, whatever their order."""
    key, node = (np.concatenate(of) for of in zip(*parts, strict=True))
    order = np.lexsort((node, key))
    key, node = key[order], node[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    return NegativeLists(key[first], np.append(first, len(key)), node, max(schema.tables.values()))


def numbers_of_negatives(schema: Schema) -> Array:
    """[relations] the number of the relation that holds the explicit negatives of each, or -1."""
    number = {name: rel for rel, name in enumerate(schema.names)}
    negatives = (relation.negatives for relation in schema.relations)
    return np.array([-1 if of is None else number[of.relation] for of in negatives], np.int64)
