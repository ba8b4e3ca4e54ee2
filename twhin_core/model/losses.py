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
    def __call__(self, positive: Tensor, negatives: Tensor, masked: Tensor) -> Tensor:
        """Loss [C, L] of C chunks of L positives, each with the K negatives of its chunk.

        Args:
            positive: [C, L] scores of the positives.
            negatives: [C, L, K] scores of the negatives; may be overwritten.
            masked: int64: negatives that do not count, as positions in the flattened [C, L, K].
        """


class BinaryCrossEntropy(Loss):
    """Positives are labelled 1 and negatives 0; all negatives of a positive together weigh as much as it does.

    softplus(-f) + mean_k softplus(f_k).
    """

    is_shift_invariant = False

    def __call__(self, positive: Tensor, negatives: Tensor, masked: Tensor) -> Tensor:
        return F.softplus(-positive) + _mean_of_counted(F.softplus(negatives), masked)


class Ranking(Loss):
    """Each negative must score lower than the positive by a margin: mean_k max(0, margin - f + f_k)."""

    is_shift_invariant = True

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, positive: Tensor, negatives: Tensor, masked: Tensor) -> Tensor:
        short = F.relu(negatives + (self.margin - positive).unsqueeze(-1))
        return _mean_of_counted(short, masked)


class Softmax(Loss):
    """Cross-entropy of the positive among its negatives: -log( e^{f/τ} / (e^{f/τ} + Σ_k e^{f_k/τ}) )."""

    is_shift_invariant = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, positive: Tensor, negatives: Tensor, masked: Tensor) -> Tensor:
        # Functions of torch's carry no types.
        loss, _ = _CrossEntropy.apply(positive, negatives, masked, 1 / self.temperature)  # type: ignore[no-untyped-call]
        return loss  # type: ignore[no-any-return]


class _CrossEntropy(torch.autograd.Function):
    """log( e^{scale·f} + Σ_k e^{scale·f_k} ) - scale·f, masked negatives left out.

    Written out, because the scores of the negatives are the largest tensor of a step, and the taped version keeps and
    passes over several copies of them. Here they become their shares of the softmax, and those their gradient, in
    place.
    """

    @staticmethod
    def forward(ctx: Any, positive: Tensor, negatives: Tensor, masked: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        shares = negatives.mul_(scale) if scale != 1 else negatives
        shares.view(-1).index_fill_(0, masked, -torch.inf)
        positive = positive * scale
        largest = torch.maximum(shares.amax(-1), positive)
        positive_share = (positive - largest).exp_()
        # Under autocast the negatives are bf16, too coarse to add up in; the positives are not.
        total = shares.sub_(largest.unsqueeze(-1)).exp_().sum(-1, dtype=positive.dtype).add_(positive_share)
        ctx.mark_dirty(negatives)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(shares, positive_share, total)
        ctx.scale = scale
        return total.log() + largest - positive, negatives

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, Tensor, None, None]:
        shares, positive_share, total = ctx.saved_tensors
        weight = ctx.scale * gradient / total
        return weight * (positive_share - total), shares.mul_(weight.unsqueeze(-1)), None, None


def _mean_of_counted(values: Tensor, masked: Tensor) -> Tensor:
    """Means [C, L] of values [C, L, K], those at the flat positions `masked` left out; 0 where none is left."""
    count = values.shape[-1]
    left_out = (masked // count).bincount(minlength=values.numel() // count).view(values.shape[:-1])
    return values.flatten().index_fill(0, masked, 0.0).view_as(values).sum(-1) / (count - left_out).clamp(min=1)


def make_loss(model: Model) -> Loss:
    if model.loss == "softmax":
        return Softmax(model.temperature)
    return Ranking(model.margin) if model.loss == "ranking" else BinaryCrossEntropy()
