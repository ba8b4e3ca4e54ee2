"""Counts for queries with many held-out answers: their scores are sorted once, and each answer is looked up in them.

Comparing every answer with every score takes time in proportion to the answers; a sort costs about as much as comparing
three of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.ranking.queries import Ints

MANY = 4
"""From so many answers on, beside the first, sorting is faster."""


@dataclass(frozen=True)
class ManyAnswers:
    """Queries of a block of scores that have about as many answers as each other."""

    rows: Ints
    """[R] their rows of scores."""
    own: Tensor
    """float32 [R, K], the scores of the answers of each, padded with inf."""
    cell: Tensor
    """int64 [n], the place of each answer in `own`, flattened."""
    answer: Tensor
    """int64 [n], its number among the answers that `group_answers` was given."""

    def add_counts(self, scores: npt.NDArray[np.float32], above: Tensor) -> None:
        """Adds to `above`, for each answer, twice the scores of its row that are greater plus those that are equal.

        Args:
            scores: float32 [Q, C] without nan.
            above: int64 [A], of all answers.
        """
        ordered = scores[self.rows]
        ordered.sort(axis=1)
        ascending = torch.from_numpy(ordered)
        below = torch.searchsorted(ascending, self.own)
        last = below.clamp(max=scores.shape[1] - 1)
        # Few answers tie with a score; for the others, a second search would find the same place.
        tied = (ascending.gather(1, last) == self.own).any(1)
        up_to = below.clone()
        up_to[tied] = torch.searchsorted(ascending[tied], self.own[tied], right=True)
        above.index_add_(0, self.answer, 2 * scores.shape[1] - (below + up_to).view(-1)[self.cell])


def group_answers(row: Ints, own: npt.NDArray[np.float32]) -> list[ManyAnswers]:
    """Groups answers so that padding at most quadruples them. `row` [A] ascends; `own` [A] are their scores."""
    rows, first, count = np.unique(row, return_index=True, return_counts=True)
    size = (np.frexp(count)[1] + 1) // 2  # of powers of 4
    groups = []
    for of in np.unique(size):
        members = np.flatnonzero(size == of)
        counts, width = count[members], int(count[members].max())
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        cell = np.repeat(np.arange(len(members)) * width, counts) + within
        answer = np.repeat(first[members], counts) + within
        padded = np.full(len(members) * width, np.inf, np.float32)
        padded[cell] = own[answer]
        tensors = (torch.from_numpy(padded).view(-1, width), torch.from_numpy(cell), torch.from_numpy(answer))
        groups.append(ManyAnswers(rows[members], *tensors))
    return groups
