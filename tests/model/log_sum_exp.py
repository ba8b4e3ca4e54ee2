"""The definition of what the fused loss computes, in float64 and with all scores in memory."""

from __future__ import annotations

import torch
from torch import Tensor

METRICS = ["dot", "l2", "squared_l2"]
"""In the order of the kernels' numbers."""


def in_float64(
    queries: Tensor, candidates: Tensor, ids: tuple[Tensor, Tensor], shift: Tensor | None, scale: float, metric: str
) -> Tensor:
    """float64 [C, L]: queries [C, L, dim] and candidates [C, K, dim], the ids of both, and a shift [C, K]."""
    products = queries @ candidates.mT
    if metric != "dot":
        squares = (queries[:, :, None] - candidates[:, None]).square().sum(-1)
        products = -squares if metric == "squared_l2" else -squares.sqrt()
    x = scale * products - (0 if shift is None else shift[:, None].double())
    return x.masked_fill(ids[0][:, :, None] == ids[1][:, None], -torch.inf).logsumexp(-1)
