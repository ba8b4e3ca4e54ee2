"""The training edges of a relation by user."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from twhin_core.data.files import EdgeFiles
from twhin_core.ranking.queries import Floats, Ints

EDGES_AT_ONCE = 1 << 20


class Histories:
    """The rhs of each lhs. Edges are kept on disk, and their counts in memory."""

    def __init__(self, train: EdgeFiles, rel: int, users: int) -> None:
        """`users`: rows of the lhs table."""
        self.count: Ints = np.zeros(users, np.int64)
        """[users] edges of each."""
        for edges in train.chunks():
            self.count += np.bincount(edges.lhs[edges.rel == rel], minlength=users)
        self._first = self.count.cumsum() - self.count
        size = max(1, int(self.count.sum()))  # a file of no bytes cannot be mapped
        with tempfile.TemporaryFile(prefix="twhin-recommend-") as file:
            os.posix_fallocate(file.fileno(), 0, 8 * size)  # a full disk is an error here, not a signal when mapped
            self._item: npt.NDArray[np.int64] = np.memmap(file, np.int64, "w+", shape=size)
        place = self._first.copy()
        for edges in train.chunks():
            of = edges.take(edges.rel == rel)
            order = np.argsort(of.lhs, kind="stable")
            user, times = np.unique(of.lhs, return_counts=True)
            start = np.repeat(place[user] - (times.cumsum() - times), times)
            self._item[start + np.arange(len(order))] = of.rhs[order]
            place[user] += times

    def of(self, users: Ints) -> tuple[Ints, Ints]:
        """(position in `users`, item) of the edges of users, in the order of the users."""
        count = self.count[users]
        position = np.repeat(np.arange(len(users)), count)
        start = self._first[users] - (count.cumsum() - count)
        return position, self._item[start[position] + np.arange(len(position))]

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
