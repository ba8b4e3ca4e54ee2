"""What a model must beat: rankings by scores that have learned nothing of who likes what. They need no products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from twhin_core.data.frequencies import added, end
from twhin_core.evaluation.candidates import CandidateSet
from twhin_core.evaluation.held_out import HeldOut
from twhin_core.evaluation.node_counts import NodeCounts
from twhin_core.evaluation.placing import Outcome
from twhin_core.evaluation.positions import count_in_groups, places_in_groups, positions
from twhin_core.evaluation.queries import Ints, Queries
from twhin_core.evaluation.ranking import Places

MOST_EDGES = 1 << 40
"""Of a node; as many groups as a number has left fit beside it."""


class Popularity:
    """Scores a node by its number of training edges on the side asked for, of the relation asked about.

    All queries of a relation have the same scores, so a rank comes of how many nodes have how many edges.
    """

    def __init__(self, ends: NodeCounts) -> None:
        self._ends = ends
        # (group, number of edges) as one number, ascending, and how many nodes have as many.
        self._edges, self._nodes = np.empty(0, np.int64), np.empty(0, np.int64)
        for keys, counts in ends.blocks():
            edges = np.concatenate([self._edges, keys // ends.rows * MOST_EDGES + counts])
            self._edges, self._nodes = added(edges, np.concatenate([self._nodes, np.ones_like(counts)]))

    def of(self, candidates: CandidateSet, queries: int) -> Callable[[Queries], Places]:
        """As `Placer.of`."""
        return lambda chunk: self._places(candidates, chunk)

    def _places(self, candidates: CandidateSet, queries: Queries) -> Places:
        group = end(queries.rel, queries.side)[queries.query]
        score = self._ends.of(group, queries.answer)
        held = np.flatnonzero(queries.edges)
        more, equal = self._among_all(candidates, group[held], score[held])
        _, known = candidates.columns(queries.answer)
        of_known = count_in_groups(queries.query[held], score[held], queries.query[known], score[known])
        rank = np.zeros(len(score))
        rank[held] = 1 + (more - of_known[0]) + (equal - of_known[1]) / 2
        return Places(rank[held], positions(queries, score, rank)[held])

    def _among_all(self, candidates: CandidateSet, group: Ints, score: Ints) -> tuple[Ints, Ints]:
        """How many candidates have more and as many edges as each score, known answers among them."""
        more, equal = np.empty_like(score), np.empty_like(score)
        for each in np.unique(group).tolist():
            mine = group == each
            edges, nodes = self._histogram(candidates, each)
            up_to = np.concatenate([[0], nodes.cumsum()])
            left, right = (np.searchsorted(edges, score[mine], side=which) for which in ("left", "right"))
            more[mine] = up_to[-1] - up_to[right]
            equal[mine] = np.where(score[mine] > 0, up_to[right] - up_to[left], candidates.size - up_to[-1])
        return more, equal

    def _histogram(self, candidates: CandidateSet, group: int) -> tuple[Ints, Ints]:
        """Numbers of edges above 0, ascending, and how many candidates have as many."""
        if candidates.drawn is None:
            first, last = np.searchsorted(self._edges, [group * MOST_EDGES, (group + 1) * MOST_EDGES])
            return self._edges[first:last] - group * MOST_EDGES, self._nodes[first:last]
        edges = self._ends.of(np.full(candidates.size, group), candidates.drawn)
        values, nodes = np.unique(edges[edges > 0], return_counts=True)
        return values, nodes


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
