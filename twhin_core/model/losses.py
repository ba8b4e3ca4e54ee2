"""What training makes small, for a positive and the negatives beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.config import Model


class Loss(ABC):
    """Loss of each positive as the answer to its query for one side."""

    is_shift_invariant: bool
    """Whether adding one number to all scores of a query leaves its loss as it is."""
    temperature: float = 1.0
    """What scores are divided by, to be logarithms of odds."""

    @abstractmethod
    def __call__(self, scores: Tensor, masked: Tensor, log_weight: Tensor | None = None) -> Tensor:
        """Loss [C, L] of C chunks of L positives, each with the K negatives of its chunk.

        Args:
            scores: [C, L, 1 + K], the positive's first; may be overwritten.
            masked: int64: negatives that do not count, as positions in the flattened scores.
            log_weight: [C], logarithm of the weight of each negative, for the softmax alone; None for 1.
        """


class BinaryCrossEntropy(Loss):
    """Positives are labelled 1 and negatives 0; all negatives of a positive together weigh as much as it does.

    softplus(-f) + mean_k softplus(f_k).
    """

    is_shift_invariant = False

    def __call__(self, scores: Tensor, masked: Tensor, log_weight: Tensor | None = None) -> Tensor:
        assert log_weight is None
        return F.softplus(-scores[..., 0]) + _mean_of_negatives(F.softplus(scores), masked)


class Ranking(Loss):
    """Each negative must score lower than the positive by a margin: mean_k max(0, margin - f + f_k)."""

    is_shift_invariant = True

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, scores: Tensor, masked: Tensor, log_weight: Tensor | None = None) -> Tensor:
        assert log_weight is None
        short = F.relu(scores + (self.margin - scores[..., :1]))
        return _mean_of_negatives(short, masked)


class Softmax(Loss):
    """Cross-entropy of the positive among its negatives: -log( e^{f/τ} / (e^{f/τ} + e^h·Σ_k e^{f_k/τ}) ).

    h is the log weight, 0 by default: with log(rows of the table / K), uniform negatives estimate the sum over the
    table (Jean et al., 2015, equation 9).

    A positive whose share is below the smallest number of its type counts as that number, about 87; its gradient is
    exact all the same.
    """

    is_shift_invariant = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, scores: Tensor, masked: Tensor, log_weight: Tensor | None = None) -> Tensor:
        # Functions of torch's carry no types.
        loss, _ = _CrossEntropy.apply(scores, masked, log_weight, 1 / self.temperature)  # type: ignore[no-untyped-call]
        return loss  # type: ignore[no-any-return]


class _CrossEntropy(torch.autograd.Function):
    """-log softmax(scale · scores)[first], masked scores left out; of the first one the log_weight is taken before.

    Written out, because the scores are the largest tensor of a step, and the taped version keeps and passes over
    several copies of them. Here they become their shares of the softmax, and those their gradient, in place.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, masked: Tensor, log_weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        if scale != 1:
            scores.mul_(scale)
        if log_weight is not None:
            scores[..., 0] -= log_weight[:, None]
        scores.view(-1).index_fill_(0, masked, -torch.inf)
        shares = torch.softmax(scores, -1, out=scores)
        # The negatives' share too, for where the positive's is so near 1 that its difference from 1 would be rounded.
        precise = torch.promote_types(shares.dtype, torch.float32)
        positive, negatives = shares[..., 0].to(precise), shares[..., 1:].sum(-1).to(precise)
        ctx.mark_dirty(scores)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(shares, negatives)
        ctx.scale = scale
        smallest = torch.finfo(precise).tiny
        loss = torch.where(positive < 0.5, -positive.clamp(min=smallest).log(), -(-negatives).log1p())
        return loss, scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, None, None, None]:
        shares, negatives = ctx.saved_tensors
        weight = ctx.scale * gradient
        # A factor of another type than the shares' would send them through a slow conversion.
        shares.mul_(weight.to(shares.dtype).unsqueeze(-1))
        shares[..., 0] = -weight * negatives
        return shares, None, None, None


def _mean_of_negatives(values: Tensor, masked: Tensor) -> Tensor:
    """Means [C, L] over the negatives of values [C, L, 1 + K], those at the flat positions `masked` left out.

    Where none is left, 0.
    """
    columns = values.shape[-1]
    left_out = (masked // columns).bincount(minlength=values.numel() // columns).view(values.shape[:-1])
    counted = values.flatten().index_fill(0, masked, 0.0).view_as(values)
    return counted[..., 1:].sum(-1) / (columns - 1 - left_out).clamp(min=1)


def make_loss(model: Model) -> Loss:
    if model.loss == "softmax":
        return Softmax(model.temperature)
    return Ranking(model.margin) if model.loss == "ranking" else BinaryCrossEntropy()
