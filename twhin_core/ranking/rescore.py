"""Scores of given candidates, for what found them by approximate ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from twhin_core.ranking.best import NONE
from twhin_core.ranking.queries import Ints

AT_ONCE = 1 << 22
"""Numbers of the candidates' vectors in memory at once, about."""


@torch.inference_mode()
def rescore(vectors: Tensor, answers: Callable[[Ints], Tensor], columns: Ints, k: int) -> tuple[Tensor, Ints]:
    """The k of each query's candidates with the greatest products, best first.

    Args:
        vectors: float32 [Q, width], the projected queries.
        answers: the projections of candidates, int64 [n] → float32 [n, width].
        columns: int64 [Q, m], candidates, distinct in a row; `NONE` where there is none.

    Returns:
        products float32 [Q, min(k, m)] and columns int64 of the same shape: -inf and `NONE` behind the last.
    """
    k = min(k, columns.shape[1])
    products, chosen = torch.full((len(columns), k), -torch.inf), np.full((len(columns), k), NONE)
    each = max(1, AT_ONCE // max(1, columns.shape[1] * vectors.shape[1]))
    for start in range(0, len(columns), each):
        of_block = columns[start : start + each]
        is_there = torch.from_numpy(of_block != NONE)
        distinct, place = np.unique(np.where(is_there, of_block, 0), return_inverse=True)
        candidates = answers(distinct)[torch.from_numpy(place.reshape(of_block.shape))]
        found = torch.einsum("qw,qmw->qm", vectors[start : start + each], candidates)
        best, order = found.masked_fill(~is_there, -torch.inf).sort(stable=True, dim=1, descending=True)
        products[start : start + each] = best[:, :k]
        ordered = np.take_along_axis(of_block, order.numpy(), 1)
        chosen[start : start + each] = ordered[:, :k]
    return products, chosen
