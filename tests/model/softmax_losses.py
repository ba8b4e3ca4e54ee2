"""The definition of what the fused loss computes, in float64 and with all scores in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scores(queries: Tensor, others: Tensor, metric: str) -> Tensor:
    """Of vectors [..., dim] each → [...]."""
    if metric == "dot":
        return (queries * others).sum(-1)
    squares = (queries - others).square().sum(-1)
    return -squares if metric == "squared_l2" else -squares.sqrt()


def in_float64(
    vectors: tuple[Tensor, Tensor, Tensor],
    ids: tuple[Tensor, Tensor],
    shifts: tuple[Tensor | None, Tensor | None],
    extra: Tensor | None,
    scale: float,
    metric: str,
) -> Tensor:
    """float64 [C, L]: queries and answers [C, L, dim], candidates [C, K, dim], the ids of answers and candidates, what
    to subtract from the scores of candidates [C, K] and answers [C, L], and the score of one more negative [C, L]."""
    queries, answers, candidates = vectors
    negatives = scale * scores(queries[:, :, None], candidates[:, None], metric)
    positive = scale * scores(queries, answers, metric)
    if shifts[0] is not None:
        negatives = negatives - shifts[0][:, None].double()
    if shifts[1] is not None:
        positive = positive - shifts[1].double()
    negatives = negatives.masked_fill(ids[0][:, :, None] == ids[1][:, None], -torch.inf)
    if extra is not None:
        negatives = torch.cat([negatives, extra[..., None].double()], -1)
    logits = torch.cat([positive[..., None], negatives], -1)
    return F.cross_entropy(logits.flatten(0, 1), torch.zeros_like(ids[0]).flatten(), reduction="none").view_as(positive)
