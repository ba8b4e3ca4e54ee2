"""The order in which the held-out answers of queries are compared with the scores of a block."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twhin_core.evaluation.queries import Ints, Queries

LAYERS = 32
"""As many answers of each query are compared beside those of the other queries; what a query has more, for itself."""


class Task(NamedTuple):
    """Scores and answers that are compared in one operation: the rows of a block, and as many answers, or one row and
    up to Q answers."""

    rows: slice
    answers: slice


class Lines:
    """Places queries in the lines of products of Q lines each: those with the most held-out answers first.

    So the queries of a product that have an n-th answer are its first lines, and their n-th answers are compared with
    the scores of these lines at once.
    """

    def __init__(self, queries: Queries, lines_a_block: int) -> None:
        held = np.flatnonzero(queries.edges)
        query = queries.query[held]
        counts = np.bincount(query, minlength=len(queries))
        self.query: Ints = np.argsort(-counts, kind="stable")
        """[n] the query of each line."""
        self.of_query = np.empty_like(self.query)
        """[n] the line of each query."""
        self.of_query[self.query] = np.arange(len(queries))
        layer = np.arange(len(held)) - np.searchsorted(query, query)
        block, row = np.divmod(self.of_query[query], lines_a_block)
        task = np.where(layer < LAYERS, layer, LAYERS + row)
        order = np.lexsort((np.where(layer < LAYERS, row, layer), task, block))
        self.held: Ints = held[order]
        """[A] the held-out answers, as they are compared: an index of `Queries.answer` each."""
        self.tasks = _tasks(block[order], task[order], row[order], lines_a_block)
        """For each block, its tasks."""


def _tasks(block: Ints, task: Ints, row: Ints, most: int) -> list[list[Task]]:
    tasks: list[list[Task]] = [[] for _ in range(int(block[-1]) + 1)]
    starts = np.flatnonzero((np.diff(block, prepend=-1) != 0) | (np.diff(task, prepend=-1) != 0))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(block)], strict=True):
        if task[start] < LAYERS:
            tasks[block[start]].append(Task(slice(0, stop - start), slice(start, stop)))
        else:
            line = slice(int(row[start]), int(row[start]) + 1)
            for first in range(start, stop, most):
                tasks[block[start]].append(Task(line, slice(first, min(first + most, stop))))
    return tasks
