"""Finders that need no vectors, which a model must beat: popularity and chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE, find_best, list_shape
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.products import Arithmetic, Candidates
from twhin_core.ranking.queries import Ints, split_by
from twhin_core.recommend.finder import Found, found_by
from twhin_core.vectors.rows import TensorRows


@dataclass(frozen=True)
class PopularityFinder:
    """Scores a candidate by its training edges of the relation."""

    candidates: CandidateSet
    edges: Ints
    """[N] of each row of the candidates' table."""
    k: int
    device: torch.device

    def find(self, rows: Ints, excluded: tuple[Ints, Ints], progress: Progress) -> Found:
        """As `Finder.find`."""
        of = self.candidates
        edges = self.edges[: of.size] if of.drawn is None else self.edges[of.drawn]
        # The products of a one with each number of edges.
        counts = TensorRows(torch.from_numpy(edges).float()[:, None])
        shape = list_shape(len(rows), of.size, self.device)
        factors = Candidates(counts, None, Arithmetic("fp32", self.device), shape, counts.size * 4 * 2)
        products, columns = find_best(torch.ones(len(rows), 1), factors, min(self.k, of.size), excluded, progress)
        return found_by("popularity", of, columns.numpy(), products.numpy())


@dataclass(frozen=True)
class RandomFinder:
    """Draws candidates without replacement; each has the score 0."""

    candidates: CandidateSet
    k: int
    seed: int

    def find(self, rows: Ints, excluded: tuple[Ints, Ints], progress: Progress) -> Found:
        """As `Finder.find`. The same users at once get the same lists."""
        of, (user, column) = self.candidates, excluded
        columns = np.full((len(rows), min(self.k, of.size)), NONE)
        left_out = {number: column[pairs] for number, pairs in split_by(user)}
        generator = np.random.default_rng([self.seed, 5, *rows[:1].tolist()])
        for number in range(len(rows)):
            without = left_out.get(number, column[:0])
            drawn = generator.choice(of.size, min(of.size, self.k + len(without)), replace=False)
            kept = drawn[~np.isin(drawn, without)][: self.k]
            columns[number, : len(kept)] = kept
        progress.update(len(rows) * of.size)
        return found_by("random", of, columns, np.zeros(columns.shape, np.float32))
