"""The training edges of a relation by user."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from twhin_core.ranking.queries import Floats, Ints
from twhin_core.vectors.adjacency import Adjacency

EDGES_AT_ONCE = 1 << 20


class Histories:
    """The rhs of each lhs."""

    def __init__(self, edges: Adjacency) -> None:
        """`edges`: of each user."""
        self._edges = edges
        self.count: Ints = np.diff(edges.starts)
        """[users] edges of each."""

    def of(self, users: Ints) -> tuple[Ints, Ints]:
        """(position in `users`, item) of the edges of users, in the order of the users."""
        return self._edges.of_each(users)

    def shares(self, users: Ints, cluster: Ints, clusters: int) -> Floats:
        """The shares of users' edges that lead to each cluster: float64 [n, clusters], 0 for a user without edges.

        Args:
            cluster: of each item.
        """
        shares = np.zeros((len(users), clusters))
        for group in self._groups(users):
            position, item = self.of(users[group])
            cell = position * clusters + cluster[item]
            shares[group] = np.bincount(cell, minlength=(group.stop - group.start) * clusters).reshape(-1, clusters)
        return shares / np.maximum(self.count[users], 1)[:, None]

    def _groups(self, users: Ints) -> Iterator[slice]:
        """Ranges of users that have about `EDGES_AT_ONCE` edges together."""
        last = self.count[users].cumsum() // EDGES_AT_ONCE
        bounds = [0, *(np.flatnonzero(np.diff(last)) + 1).tolist(), len(users)]
        return (slice(start, stop) for start, stop in itertools.pairwise(bounds))
