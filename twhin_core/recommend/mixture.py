"""Users as mixtures over clusters of candidates.

After kNN-Embed (El-Kishky et al. 2022, "kNN-Embed: Locally Smoothed Embedding Mixtures For Multi-interest Candidate
Retrieval"): a user u is the multinomial of its edges over clusters, p(c|u) = edges of u that lead to c / edges of u,
smoothed by its K nearest users,

    (1 - λ) · p(c|u) + λ · 1/K · Σ p(c|v) over the nearest users v.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from twhin_core.config.recommend import Mixture
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE, find_best, list_shape
from twhin_core.ranking.products import Arithmetic, Candidates
from twhin_core.ranking.queries import Floats, Ints
from twhin_core.recommend.histories import Histories
from twhin_core.vectors.rows import Rows, SelectedRows

SHARES_AT_ONCE = 1 << 22
"""Shares of neighbors that are in memory at once, 8 bytes each."""


class Mixtures:
    """The mixtures of users."""

    def __init__(
        self, histories: Histories, users: Rows, cluster: Ints, settings: Mixture, arithmetic: Arithmetic, memory: int
    ) -> None:
        """
        Args:
            users: the vectors of the lhs table.
            cluster: of each row of the rhs table.
            memory: bytes for the vectors of users.
        """
        self.histories, self.cluster, self.settings = histories, cluster, settings
        self._users = users
        self._others = np.flatnonzero(histories.count)  # users without edges say nothing
        shape = list_shape(users.size, len(self._others), arithmetic.device) if len(self._others) else None
        rows = SelectedRows(users, len(self._others), self._others)
        self._candidates = None if shape is None else Candidates(rows, _unit, arithmetic, shape, memory)

    def blocks(self, users: Ints) -> Iterator[tuple[slice, Floats]]:
        """The mixtures of users [Q], a range of them at a time: float64 [n, clusters], each sums to 1.

        A user without edges has its neighbors' mean alone, and a mixture of zeros if there is none.
        """
        clusters, smoothing = self.settings.clusters, self.settings.smoothing
        nearest = self._nearest(users) if smoothing else np.empty((len(users), 0), np.int64)
        lines = max(1, SHARES_AT_ONCE // (clusters * (1 + nearest.shape[1])))
        for start in range(0, len(users), lines):
            block = slice(start, min(start + lines, len(users)))
            mixture = self.histories.shares(users[block], self.cluster, clusters)
            if smoothing:
                mixture = (1 - smoothing) * mixture + smoothing * self._mean(nearest[block])
            total = mixture.sum(1, keepdims=True)
            yield block, np.divide(mixture, total, out=mixture, where=total > 0)

    def _mean(self, nearest: Ints) -> Floats:
        """The mean mixture of users [Q, K], where `NONE` is no user."""
        users, place = np.unique(nearest, return_inverse=True)
        shares = self.histories.shares(np.maximum(users, 0), self.cluster, self.settings.clusters)
        shares[users == NONE] = 0
        count = np.maximum((nearest != NONE).sum(1), 1)
        mean: Floats = shares[place.reshape(nearest.shape)].sum(1) / count[:, None]
        return mean

    def _nearest(self, users: Ints) -> Ints:
        """The nearest users with edges by the cosine of their vectors, without the user itself: int64 [Q, K]."""
        if self._candidates is None:
            return np.full((len(users), 1), NONE)
        column = np.searchsorted(self._others, users)
        inside = np.minimum(column, len(self._others) - 1)
        itself = np.flatnonzero(self._others[inside] == users)
        k = min(self.settings.neighbors, len(self._others))
        with Progress("neighbors", 1, "scores", quiet=True) as progress:
            vectors = _unit(self._users.gather(users))
            _, found = find_best(vectors, self._candidates, k, (itself, column[itself]), progress)
        columns = found.numpy()
        return np.where(columns == NONE, NONE, self._others[columns])


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)
