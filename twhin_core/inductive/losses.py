"""The loss of a positive and its negatives, in parts that can be computed once for many positives.

The losses themselves are those of `model/losses.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.config import Model


class PositiveLoss(ABC):
    """The loss of a positive, from what its query's negatives come down to."""

    @abstractmethod
    def sum_up(self, negatives: Tensor) -> Tensor:
        """What the scores of a query's sampled negatives, [G, K], come down to: [G, …]."""

    @abstractmethod
    def of(self, positive: Tensor, summed: Tensor) -> Tensor:
        """The losses [E] of positives with scores [E], given what `sum_up` made of each one's negatives."""

    @abstractmethod
    def of_one_more(self, scores: Tensor, positive: Tensor, summed: Tensor, weight: Tensor) -> Tensor:
        """What a candidate that each draw finds with probability p adds to the losses of S queries, over p.

        Args:
            scores: [n, S] of n candidates.
            positive: [S] scores of the queries' positives.
            summed: [S, …] what `sum_up` made of their negatives.
            weight: [S] of the queries.

        Returns:
            [n] the weighted sums, to first order in p.
        """


class Softmax(PositiveLoss):
    """-log( e^{f/τ} / (e^{f/τ} + h·Σ_k e^{f_k/τ}) )."""

    def __init__(self, temperature: float, drawn: int, weight: float, sampled: int) -> None:
        """
        Args:
            drawn: the negatives of a query in training.
            weight: how many candidates they weigh as; h = weight / drawn.
            sampled: the negatives that `sum_up` gets instead.
        """
        self._temperature, self._drawn = temperature, drawn
        self._of_drawn, self._of_sampled = math.log(weight / max(drawn, 1)), math.log(weight / sampled)

    def sum_up(self, negatives: Tensor) -> Tensor:
        total: Tensor = _LogSumExp.apply(negatives, 1 / self._temperature)  # type: ignore[no-untyped-call]  # in torch
        return total + self._of_sampled

    def of(self, positive: Tensor, summed: Tensor) -> Tensor:
        return F.softplus(summed - positive / self._temperature)

    def of_one_more(self, scores: Tensor, positive: Tensor, summed: Tensor, weight: Tensor) -> Tensor:
        others = torch.logaddexp(positive / self._temperature, summed) - self._of_drawn
        total: Tensor = _LogOnePlus.apply(scores, others, weight, 1 / self._temperature)  # type: ignore[no-untyped-call]
        return self._drawn * total


class BinaryCrossEntropy(PositiveLoss):
    """softplus(-f) + mean_k softplus(f_k)."""

    def sum_up(self, negatives: Tensor) -> Tensor:
        return F.softplus(negatives).mean(-1)

    def of(self, positive: Tensor, summed: Tensor) -> Tensor:
        return F.softplus(-positive) + summed

    def of_one_more(self, scores: Tensor, positive: Tensor, summed: Tensor, weight: Tensor) -> Tensor:
        return F.softplus(scores) @ weight


class Ranking(PositiveLoss):
    """mean_k max(0, margin - f + f_k)."""

    def __init__(self, margin: float) -> None:
        self._margin = margin

    def sum_up(self, negatives: Tensor) -> Tensor:
        return negatives

    def of(self, positive: Tensor, summed: Tensor) -> Tensor:
        return F.relu(self._margin - positive[:, None] + summed).mean(-1)

    def of_one_more(self, scores: Tensor, positive: Tensor, summed: Tensor, weight: Tensor) -> Tensor:
        return F.relu(self._margin - positive + scores) @ weight


def make_loss(model: Model, drawn: int, weight: float, sampled: int) -> PositiveLoss:
    """The arguments are those of `Softmax`; the other losses take means."""
    if model.loss == "softmax":
        return Softmax(model.temperature, drawn, weight, sampled)
    return Ranking(model.margin) if model.loss == "ranking" else BinaryCrossEntropy()


# Scores are the largest tensors of a fit. Autograd would keep several copies of them, and softplus is slow.


BELOW_ONE = 1 - 2.0**-24
"""The largest fp32 number below 1."""


class _LogSumExp(torch.autograd.Function):
    """log Σ_k e^{scale · f_k} of scores [n, K] → [n]."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, scale: float) -> Tensor:
        scaled = scores * scale
        shares = torch.softmax(scaled, -1)
        ctx.save_for_backward(shares)
        ctx.scale = scale
        return scaled.amax(-1) - shares.amax(-1).log()  # the largest share is at least 1 / K

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (shares,) = ctx.saved_tensors
        return shares * (ctx.scale * gradient)[:, None], None


class _LogOnePlus(torch.autograd.Function):
    """Σ_s w_s · log(1 + e^{scale · f_s - others_s}) of scores [n, S] → [n]. A logarithm is at most 16.6."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, others: Tensor, weight: Tensor, scale: float) -> Tensor:
        share = torch.add(-others, scores, alpha=scale).sigmoid_()
        ctx.save_for_backward(share, weight)
        ctx.scale = scale
        return share.clamp(max=BELOW_ONE).neg_().log1p_() @ -weight  # log(1 + e^x) = -log(1 - σ(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        share, weight = ctx.saved_tensors
        return share * weight * (ctx.scale * gradient)[:, None], None, None, None
