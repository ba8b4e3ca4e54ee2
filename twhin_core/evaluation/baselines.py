"""What a model must beat: rankings by scores that have learned nothing of who likes what. They need no products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from twhin_core.data.frequencies import Frequencies, end
from twhin_core.evaluation.candidates import CandidateSet
from twhin_core.evaluation.held_out import HeldOut
from twhin_core.evaluation.placing import Outcome
from twhin_core.evaluation.positions import count_in_groups, places_in_groups, positions
from twhin_core.evaluation.queries import Ints, Queries
from twhin_core.evaluation.ranking import Places


class Popularity:
    """Scores a node by its number of training edges on the side asked for, of the relation asked about.

    All queries of a relation have the same scores, so a rank comes of how many nodes have how many edges.
    """

    def __init__(self, ends: Frequencies) -> None:
        self._ends = ends

    def of(self, candidates: CandidateSet, queries: int) -> Callable[[Queries], Places]:
        """As `Placer.of`."""
        return lambda chunk: self._places(candidates, chunk)

    def _places(self, candidates: CandidateSet, queries: Queries) -> Places:
        group = end(queries.rel, candidates.side)[queries.query]
        score = self._ends.of(group, queries.answer)
        held = np.flatnonzero(queries.edges)
        more, equal = self._among_all(candidates, group[held], score[held])
        known_more, known_equal = count_in_groups(queries.query[held], score[held], queries.query, score)
        rank = np.zeros(len(score))
        rank[held] = 1 + (more - known_more) + (equal - known_equal) / 2
        return Places(rank[held], positions(queries, score, rank)[held])

    def _among_all(self, candidates: CandidateSet, group: Ints, score: Ints) -> tuple[Ints, Ints]:
        """How many candidates have more and as many edges as each score, known answers among them."""
        more, equal = np.empty_like(score), np.empty_like(score)
        for each in np.unique(group).tolist():
            mine = group == each
            counts = self._counts(candidates, each)  # of those that have any
            left, right = (np.searchsorted(counts, score[mine], side=which) for which in ("left", "right"))
            more[mine] = len(counts) - right
            equal[mine] = np.where(score[mine] > 0, right - left, candidates.size - len(counts))
        return more, equal

    def _counts(self, candidates: CandidateSet, group: int) -> Ints:
        """The numbers of edges of the candidates that have any, ascending."""
        first, last = np.searchsorted(self._ends.key, [group * self._ends.rows, (group + 1) * self._ends.rows])
        _, node = candidates.columns(self._ends.key[first:last] - group * self._ends.rows)
        return np.sort(self._ends.count[first:last][node])


def by_chance(held: HeldOut, outcome: Outcome, seed: int) -> Places:
    """Ranks by independent uniform scores, without any scores of rivals: as many of these are above u as Binomial says.

    So each rank is uniform on 1 … rivals + 1.
    """
    generator = np.random.default_rng([seed, held.side == "lhs"])
    score = generator.random(len(held))
    rank = 1 + generator.binomial(outcome.rivals, 1 - score).astype(np.float64)
    position = np.full(len(held), np.nan)
    kept = np.flatnonzero(~outcome.removed)
    others = generator.binomial(outcome.others[kept], 1 - score[kept])
    position[kept] = rank[kept] + others + places_in_groups(held.query[kept], score[kept])
    return Places(rank, position)
