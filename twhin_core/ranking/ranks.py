"""The ranks of held-out answers, and the interface of whatever ranks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import FilteredQueries, Floats, Ints

Values = npt.NDArray[np.float32] | Floats | Ints


@dataclass(frozen=True)
class AnswerRanks:
    """The ranks of the H held-out answers of queries, in the order of `FilteredQueries.answer`.

    Negatives are the candidates that are not known answers of the query.
    """

    rank: Floats
    """[H] filtered rank: 1 + the negatives that score higher + half of those that tie."""
    list_rank: Floats
    """[H] rank in the list that recall and ndcg use, which has all candidates that are not removed; nan if the answer
    itself is removed. A tie with a negative counts half; tied held-out answers of a query take successive ranks."""

    def take(self, answers: Ints) -> AnswerRanks:
        return AnswerRanks(self.rank[answers], self.list_rank[answers])


RankQueries = Callable[[FilteredQueries], AnswerRanks]


class Ranker(Protocol):
    """A model or a baseline."""

    def among(self, candidates: CandidateSet, queries: int) -> RankQueries:
        """Returns a function that ranks chunks of queries among these candidates; `queries` is their total number."""
        ...


def list_ranks(queries: FilteredQueries, score: Values, rank: Floats) -> Floats:
    """[K] `AnswerRanks.list_rank` of each held-out answer, nan for the others.

    An answer's list rank adds to its filtered rank the known answers that score higher and are not removed: other
    held-out answers of the query and, when validation is evaluated, those of test.

    Args:
        score: [K], of all answers that are not removed.
        rank: [K], of the held-out answers.
    """
    held, removed = queries.edges > 0, queries.removed
    relevant, others = np.flatnonzero(held & ~removed), np.flatnonzero(~held & ~removed)
    found = np.full(len(rank), np.nan)
    found[relevant] = rank[relevant] + order_in_groups(queries.query[relevant], score[relevant])
    above, tied = count_in_groups(queries.query[relevant], score[relevant], queries.query[others], score[others])
    found[relevant] += above + tied / 2
    return found


def count_in_groups(group: Ints, value: Values, among_group: Ints, among: Values) -> tuple[Ints, Ints]:
    """For each value: how many of `among` in its group are greater, and how many are equal."""
    distinct, code = np.unique(np.concatenate([value, among]), return_inverse=True)
    keys = np.sort(among_group * len(distinct) + code[len(value) :])
    key = group * len(distinct) + code[: len(value)]
    left, right = np.searchsorted(keys, key), np.searchsorted(keys, key, side="right")
    return np.searchsorted(keys, (group + 1) * len(distinct)) - right, right - left


def order_in_groups(group: Ints, value: Values) -> Ints:
    """How many values of its group precede each, greatest first; `group` ascends."""
    order = np.lexsort((-value, group))
    found = np.empty(len(group), np.int64)
    found[order] = np.arange(len(group)) - np.searchsorted(group, group[order])
    return found
