"""Places of a query's held-out answers among all that is left, which recall and ndcg are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twhin_core.evaluation.queries import Ints, Queries

Values = npt.NDArray[np.float32] | npt.NDArray[np.float64] | Ints


def positions(queries: Queries, score: Values, rank: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[K]: the place of each held-out answer when the removed ones are taken out; nan where it is removed itself.

    The same rivals stand before an answer as in its rank, and so do the known answers that are not removed: other
    held-out ones in order of score, and, while validation is evaluated, those of test.

    Args:
        score: [K], of all answers that are not removed.
        rank: [K], of the held-out answers.
    """
    held, removed = queries.edges > 0, queries.removed
    relevant, others = np.flatnonzero(held & ~removed), np.flatnonzero(~held & ~removed)
    position = np.full(len(rank), np.nan)
    position[relevant] = rank[relevant] + places_in_groups(queries.query[relevant], score[relevant])
    above, tied = count_in_groups(queries.query[relevant], score[relevant], queries.query[others], score[others])
    position[relevant] += above + tied / 2
    return position


def count_in_groups(group: Ints, value: Values, among_group: Ints, among: Values) -> tuple[Ints, Ints]:
    """For each value: how many of `among` of its group are greater, and how many equal."""
    if len(among) == 0:
        return np.zeros(len(value), np.int64), np.zeros(len(value), np.int64)
    distinct, code = np.unique(np.concatenate([value, among]), return_inverse=True)
    keys = np.sort(among_group * len(distinct) + code[len(value) :])
    key = group * len(distinct) + code[: len(value)]
    left, right = np.searchsorted(keys, key), np.searchsorted(keys, key, side="right")
    return np.searchsorted(keys, (group + 1) * len(distinct)) - right, right - left


def places_in_groups(group: Ints, value: Values) -> Ints:
    """The place of each value in its group, from 0, greatest first; groups ascend."""
    order = np.lexsort((-value, group))
    places = np.empty(len(group), np.int64)
    places[order] = np.arange(len(group)) - np.searchsorted(group, group[order])
    return places
