"""What training makes small, for a positive and the negatives beside it.

Negatives come in several sets (in-batch, uniform), each in chunks of its own; so a loss first reduces the scores of a
set to one number a positive, then combines the sets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.config import Model


class Loss(ABC):
    """Loss of each positive on one side."""

    @abstractmethod
    def reduce(self, scores: Tensor, masked: Tensor) -> Tensor:
        """Scores of negatives [C, L, K] → [C, L]; those at the flat positions `masked` (int64) do not count."""

    @abstractmethod
    def combine(self, positive: Tensor, reduced: list[Tensor], counts: list[Tensor]) -> Tensor:
        """Loss [B] from the positives' scores [B], each set's reduction [B] and number of negatives that count [B]."""


class BinaryCrossEntropy(Loss):
    """Positives are labelled 1 and negatives 0; all negatives of a positive together weigh as much as it does.

    softplus(-f) + mean_k softplus(f_k).
    """

    def reduce(self, scores: Tensor, masked: Tensor) -> Tensor:
        return F.softplus(scores).flatten().index_fill(0, masked, 0.0).view_as(scores).sum(-1)

    def combine(self, positive: Tensor, reduced: list[Tensor], counts: list[Tensor]) -> Tensor:
        mean = torch.stack(reduced).sum(0) / torch.stack(counts).sum(0).clamp(min=1)
        return F.softplus(-positive) + mean


class Softmax(Loss):
    """Cross-entropy of the positive among its negatives: -log( e^{f/τ} / (e^{f/τ} + Σ_k e^{f_k/τ}) )."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def reduce(self, scores: Tensor, masked: Tensor) -> Tensor:
        return _log_sum_exp(scores, masked, 1.0 / self.temperature)

    def combine(self, positive: Tensor, reduced: list[Tensor], counts: list[Tensor]) -> Tensor:
        positive = positive / self.temperature
        return torch.stack([positive, *reduced]).logsumexp(0) - positive


class _LogSumExp(torch.autograd.Function):
    """log Σ_k e^{scale·s_k} over the last axis, those at the flat positions `masked` left out.

    Written out, because the taped version keeps and passes over several copies of the scores, the largest tensor of
    a step; this one keeps one.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, masked: Tensor, scale: float) -> Tensor:
        shares = scores * scale
        shares.view(-1).index_fill_(0, masked, -torch.inf)
        largest = shares.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)  # finite if all are masked
        total = shares.sub_(largest).exp_().sum(-1, keepdim=True)
        ctx.save_for_backward(shares, total)
        ctx.scale = scale
        return (total.log() + largest).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        shares, total = ctx.saved_tensors
        weight = ctx.scale * gradient.unsqueeze(-1) / total.clamp(min=torch.finfo(total.dtype).tiny)
        return shares * weight, None, None


def _log_sum_exp(scores: Tensor, masked: Tensor, scale: float) -> Tensor:
    reduced: Tensor = _LogSumExp.apply(scores, masked, scale)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return reduced


def make_loss(model: Model) -> Loss:
    return Softmax(model.temperature) if model.loss == "softmax" else BinaryCrossEntropy()
