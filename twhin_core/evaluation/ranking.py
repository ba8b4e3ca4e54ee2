"""Exact filtered ranks of held-out answers among all rows of their table.

Each query's candidates are scored once and sorted, and its answers are found in the sorted row: the cost does not
depend on how many answers a query has. An answer's own score comes from the same matrix product as its rivals'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from twhin_core.errors import UserError
from twhin_core.evaluation.queries import Queries
from twhin_core.evaluation.scores import Scores
from twhin_core.graph.manifest import Schema
from twhin_core.progress import Progress

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """One entry for each of the H held-out answers of the queries, in the queries' order."""

    rel: Ints
    """[H]"""
    query: Ints
    """[H] index of the query in `Queries`."""
    edges: Ints
    """[H] held-out edges that ask for this answer; more than 1 where an edge is repeated."""
    rank: Floats
    """[H] filtered rank: 1 + the rivals that score higher + half of those that score the same.

    Rivals are all rows of the table but the query's known answers; so a tie puts the answer in the middle.
    """
    rivals: Ints
    """[H] how many rivals there are."""
    position: Floats
    """[H] place among all candidates that are left when the query's removed answers are taken out; nan where the
    answer itself is removed.

    A tie with a wrong candidate puts the answer in the middle; held-out answers of one query take successive places.
    """


def rank(scores: Scores, queries: Queries, schema: Schema, block_mb: int, progress: Progress) -> Ranks:
    """Ranks every held-out answer of `queries` by `scores`, in blocks of at most `block_mb` MiB of scores.

    Raises:
        UserError: a score is not finite, as those of a model that diverged.
    """
    sizes = np.array([schema.tables[schema.table_of(rel, queries.side)] for rel in range(len(schema.relations))])
    held = np.flatnonzero(queries.edges)
    ranks, positions = np.empty(len(queries.edges)), np.empty(len(queries.edges))
    for rel, first, last in _blocks(queries, sizes, block_mb):
        given = torch.from_numpy(queries.given[first:last])
        table = scores.scores(queries.side, rel, given).numpy()
        answers = slice(queries.offsets[first], queries.offsets[last])
        ranks[answers], positions[answers] = _rank_block(table, queries, first, last)
        if not np.isfinite(table[:, [0, -1]]).all():  # rows are sorted now, infinities and nans at their ends
            name = schema.relations[rel].name
            raise UserError(f"scores of relation {name} are not finite: the model diverged; lower its learning rates")
        progress.update(last - first)
    rel_of = queries.rel[queries.query[held]]
    return Ranks(
        rel=rel_of,
        query=queries.query[held],
        edges=queries.edges[held],
        rank=ranks[held],
        rivals=sizes[rel_of] - np.diff(queries.offsets)[queries.query[held]],
        position=np.where(queries.removed[held], np.nan, positions[held]),
    )


def _blocks(queries: Queries, sizes: Ints, block_mb: int) -> Iterator[tuple[int, int, int]]:
    """(rel, first, last): runs of queries of one relation whose scores fit a block; at least one query each."""
    starts = np.searchsorted(queries.rel, np.arange(len(sizes) + 1))
    for rel in np.flatnonzero(np.diff(starts)).tolist():
        step = max(1, (block_mb << 20) // (4 * int(sizes[rel])))
        for first in range(int(starts[rel]), int(starts[rel + 1]), step):
            yield rel, first, min(first + step, int(starts[rel + 1]))


def _rank_block(table: npt.NDArray[np.float32], queries: Queries, first: int, last: int) -> tuple[Floats, Floats]:
    """Rank and position of every answer of the queries first … last - 1 from their scores [Q or 1, N].

    Sorts each row of the scores in place. Of the entries returned, only those of held-out answers mean anything.
    """
    answers = slice(queries.offsets[first], queries.offsets[last])
    row = queries.query[answers] - first
    shape = (last - first, table.shape[1])
    score = np.broadcast_to(table, shape)[row, queries.answer[answers]]
    table.sort(axis=1)
    ordered = np.broadcast_to(table, shape)
    below = _count_in_rows(ordered, row, score, or_equal=False)
    up_to = _count_in_rows(ordered, row, score, or_equal=True)
    known_above, known_tied = _count_in_groups(row, score, row, score)
    rank = 1.0 + (shape[1] - up_to - known_above) + (up_to - below - known_tied) / 2

    # The same rivals stand before an answer in recall and ndcg, and so do the known answers that are not removed:
    # other held-out ones in order of score, and, while validation is evaluated, those of test.
    held, removed = queries.edges[answers] > 0, queries.removed[answers]
    relevant, others = np.flatnonzero(held & ~removed), np.flatnonzero(~held & ~removed)
    position = rank.copy()
    position[relevant] += _places(row[relevant], score[relevant])
    others_above, others_tied = _count_in_groups(row, score, row[others], score[others])
    position += others_above + others_tied / 2
    return rank, position


def _count_in_rows(ordered: npt.NDArray[np.float32], row: Ints, value: npt.NDArray[np.float32], or_equal: bool) -> Ints:
    """How many entries of ordered[row] are less than (or equal to) value; rows ascend. One binary search for all."""
    low, high = np.zeros(len(row), np.int64), np.full(len(row), ordered.shape[1])
    for _ in range(ordered.shape[1].bit_length()):
        middle = (low + high) // 2
        entry = ordered[row, np.minimum(middle, ordered.shape[1] - 1)]
        right = (low < high) & ((entry <= value) if or_equal else (entry < value))
        low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
    return low


def _count_in_groups(
    group: Ints, value: npt.NDArray[np.float32], among_group: Ints, among: npt.NDArray[np.float32]
) -> tuple[Ints, Ints]:
    """For each value: how many of `among` of its group are greater, and how many equal."""
    if len(among) == 0:
        return np.zeros(len(value), np.int64), np.zeros(len(value), np.int64)
    distinct, code = np.unique(np.concatenate([value, among]), return_inverse=True)
    keys = np.sort(among_group * len(distinct) + code[len(value) :])
    key = group * len(distinct) + code[: len(value)]
    left, right = np.searchsorted(keys, key), np.searchsorted(keys, key, side="right")
    return np.searchsorted(keys, (group + 1) * len(distinct)) - right, right - left


def _places(group: Ints, value: npt.NDArray[np.float32]) -> Ints:
    """The place of each value in its group, from 0, greatest first; groups ascend."""
    order = np.lexsort((-value, group))
    places = np.empty(len(group), np.int64)
    places[order] = np.arange(len(group)) - np.searchsorted(group, group[order])
    return places
