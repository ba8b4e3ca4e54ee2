"""What a model must beat: popularity and chance. Neither needs vectors."""

from __future__ import annotations

import numpy as np

from twhin_core.data.frequencies import StoredFrequencies, end, sum_by_key
from twhin_core.evaluation.task import RankingResult
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import FilteredQueries, HeldOut, Ints, split_by
from twhin_core.ranking.ranks import AnswerRanks, RankQueries, Values, count_in_groups, list_ranks, order_in_groups

MOST_EDGES = 1 << 40
"""The most edges of a node, so that a group and a number of edges fit into one int64."""


class Popularity:
    """Scores a candidate by its number of training edges of the query's relation, on the side that the query asks for.

    All queries of a relation share these scores, so ranks follow from a histogram: how many nodes have how many edges.
    """

    def __init__(self, ends: StoredFrequencies) -> None:
        self._ends = ends
        # (group, number of edges) as one number, ascending, and how many nodes have that number of edges.
        self._edges, self._nodes = np.empty(0, np.int64), np.empty(0, np.int64)
        for keys, counts in ends.blocks():
            edges = np.concatenate([self._edges, keys // ends.rows * MOST_EDGES + counts])
            self._edges, self._nodes = sum_by_key(edges, np.concatenate([self._nodes, np.ones_like(counts)]))

    def among(self, candidates: CandidateSet, queries: int) -> RankQueries:
        """See `Ranker.among`."""
        return lambda chunk: self._rank(candidates, chunk)

    def _rank(self, candidates: CandidateSet, queries: FilteredQueries) -> AnswerRanks:
        group = end(queries.rel, queries.side)[queries.query]
        score = self._ends.of(group, queries.answer)
        held = np.flatnonzero(queries.edges)
        return rank_by_counts(candidates, queries, score, *self._among_all(candidates, group[held], score[held]))

    def _among_all(self, candidates: CandidateSet, group: Ints, score: Ints) -> tuple[Ints, Ints]:
        """How many candidates, known answers included, have more edges than each score, and how many the same."""
        more, equal = np.empty_like(score), np.empty_like(score)
        for each, mine in split_by(group):
            edges, nodes = self._histogram(candidates, each)
            up_to = np.concatenate([[0], nodes.cumsum()])
            left, right = (np.searchsorted(edges, score[mine], side=which) for which in ("left", "right"))
            more[mine] = up_to[-1] - up_to[right]
            equal[mine] = np.where(score[mine] > 0, up_to[right] - up_to[left], candidates.size - up_to[-1])
        return more, equal

    def _histogram(self, candidates: CandidateSet, group: int) -> tuple[Ints, Ints]:
        """Numbers of edges above 0, ascending, and how many candidates have each."""
        if candidates.drawn is None:
            first, last = np.searchsorted(self._edges, [group * MOST_EDGES, (group + 1) * MOST_EDGES])
            return self._edges[first:last] - group * MOST_EDGES, self._nodes[first:last]
        edges, nodes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for node, count in self._ends.of_group(group):
            first, last = (np.searchsorted(candidates.drawn, node, side=which) for which in ("left", "right"))
            among = np.flatnonzero(last > first)
            edges.append(count[among])
            nodes.append((last - first)[among])
        return sum_by_key(np.concatenate(edges), np.concatenate(nodes))


def rank_by_counts(
    candidates: CandidateSet, queries: FilteredQueries, score: Values, more: Ints, equal: Ints
) -> AnswerRanks:
    """The ranks of held-out answers, from how many candidates score higher.

    Args:
        score: [K], of all known answers.
        more: [H] how many candidates, known answers included, score higher than each held-out answer.
        equal: [H] how many score the same.
    """
    held = np.flatnonzero(queries.edges)
    _, known = candidates.columns(queries.answer)
    of_known = count_in_groups(queries.query[held], score[held], queries.query[known], score[known])
    rank = np.zeros(len(score))
    rank[held] = 1 + (more - of_known[0]) + (equal - of_known[1]) / 2
    return AnswerRanks(rank[held], list_ranks(queries, score, rank)[held])


def rank_at_random(held: HeldOut, result: RankingResult, seed: int) -> AnswerRanks:
    """Ranks by independent uniform scores; each rank is uniform on 1 … negatives + 1.

    The scores of negatives are not drawn: the number that exceeds a given score is binomial.
    """
    generator = np.random.default_rng([seed, held.side == "lhs"])
    score = generator.random(len(held))
    rank = 1 + generator.binomial(result.negatives, 1 - score).astype(np.float64)
    list_rank = np.full(len(held), np.nan)
    kept = np.flatnonzero(~result.removed)
    others = generator.binomial(result.others[kept], 1 - score[kept])
    list_rank[kept] = rank[kept] + others + order_in_groups(held.query[kept], score[kept])
    return AnswerRanks(rank, list_rank)
