"""The losses that training minimizes, each of a positive and its negatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.config import Model

NONE = -1e30
"""The logit of a negative that is not there: finite, since the gradient of a sum of none but -inf is NaN."""


class Correction(NamedTuple):
    """What is subtracted from logits: the correction of logQ, less the prior."""

    answers: Tensor
    """[C, L]."""
    candidates: Tensor
    """[C, K], of the chunk's candidates."""
    own: Tensor | None = None
    """[C, L], of the negative that is the query's own node, which logQ does not correct."""


class Loss(ABC):
    """The loss of each positive as the answer to its query for one side."""

    is_shift_invariant: bool
    """Whether adding a constant to all scores of a query leaves its loss unchanged."""
    temperature: float = 1.0
    """Scores are divided by it to become logits."""

    @abstractmethod
    def __call__(
        self, scores: Tensor, masked: Tensor, log_weight: Tensor | None = None, correction: Correction | None = None
    ) -> Tensor:
        """The losses [C, L] of C chunks of L positives, each against the K candidates of its chunk.

        Args:
            scores: [C, L, 1 + K], the positive first, or [C, L, 2 + K] with a negative of the query's own after it; may
                be overwritten.
            masked: int64, masked negatives as positions in the flattened scores.
            log_weight: [C], log of the weight of each negative, for softmax only; None means weight 1.
        """

    @abstractmethod
    def with_explicit(
        self, losses: Tensor, positive: Tensor, negatives: Tensor, is_there: Tensor, share: Tensor, log_drawn: Tensor
    ) -> Tensor:
        """The losses [C, L] against the explicit negatives of each query too; unchanged for a query without any.

        Args:
            losses: [C, L], against the drawn negatives.
            positive: [C, L], the logit of each positive.
            negatives: [C, L, n], the logits of explicit negatives.
            is_there: bool [C, L, n], which of these count.
            share: [C, L], what these weigh together, as a share of the weight of all negatives; below 1.
            log_drawn: [C], log of what the drawn negatives of a query weigh together.
        """


class _MeanOfNegatives(Loss):
    """A loss that is the mean of its values for each negative, so that a share of it can be that of explicit ones."""

    def with_explicit(
        self, losses: Tensor, positive: Tensor, negatives: Tensor, is_there: Tensor, share: Tensor, log_drawn: Tensor
    ) -> Tensor:
        scores = torch.cat([positive[..., None], negatives], -1)
        missing = F.pad(~is_there, (1, 0)).flatten().nonzero().squeeze(1)
        share = share * is_there.any(-1)
        return (1 - share) * losses + share * self(scores, missing)


class BinaryCrossEntropy(_MeanOfNegatives):
    """Positives are labelled 1, negatives 0; the negatives of a positive weigh as much together as the positive.

    softplus(-f) + mean_k softplus(f_k).
    """

    is_shift_invariant = False

    def __call__(
        self, scores: Tensor, masked: Tensor, log_weight: Tensor | None = None, correction: Correction | None = None
    ) -> Tensor:
        assert log_weight is None
        scores = _corrected(scores, correction)
        return F.softplus(-scores[..., 0]) + _mean_of_negatives(F.softplus(scores), masked)


class Ranking(_MeanOfNegatives):
    """Each negative must score below the positive by a margin: mean_k max(0, margin - f + f_k)."""

    is_shift_invariant = True

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(
        self, scores: Tensor, masked: Tensor, log_weight: Tensor | None = None, correction: Correction | None = None
    ) -> Tensor:
        assert log_weight is None
        scores = _corrected(scores, correction)
        short = F.relu(scores + (self.margin - scores[..., :1]))
        return _mean_of_negatives(short, masked)


class Softmax(Loss):
    """Cross-entropy of the positive among its negatives: -log( e^{f/τ} / (e^{f/τ} + e^h·Σ_k e^{f_k/τ}) ).

    Explicit negatives are further summands, of the weight share / (1 - share) · K·e^h together.

    h is the log weight, 0 by default: with log(rows of the table / K), uniform negatives estimate the sum over the
    table (Jean et al., 2015, equation 9).

    A positive whose probability underflows is clamped to the dtype's smallest number, a loss of about 87; its gradient
    is still exact.
    """

    is_shift_invariant = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(
        self, scores: Tensor, masked: Tensor, log_weight: Tensor | None = None, correction: Correction | None = None
    ) -> Tensor:
        # autograd.Function is untyped, and finds no tensors in a tuple.
        parts = correction or (None, None, None)
        loss, _ = _CrossEntropy.apply(scores, masked, log_weight, *parts, 1 / self.temperature)  # type: ignore[no-untyped-call]
        return loss  # type: ignore[no-any-return]

    def with_explicit(
        self, losses: Tensor, positive: Tensor, negatives: Tensor, is_there: Tensor, share: Tensor, log_drawn: Tensor
    ) -> Tensor:
        # e^loss is 1 + (sum of the drawn) / e^positive, to which the explicit ones add another summand.
        count = is_there.sum(-1).clamp(min=1)
        log_each = (share / (1 - share) / count).log() + log_drawn[:, None]
        total = negatives.masked_fill(~is_there, NONE).logsumexp(-1)
        return torch.logaddexp(losses, total + log_each - positive)


class _CrossEntropy(torch.autograd.Function):
    """-log softmax(scale · scores)[first], without masked scores; the first score is reduced by the log weight.

    Written by hand because the scores are the largest tensor of a step and autograd would keep several copies of them.
    Here they turn into the softmax and then into their gradient, in place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        masked: Tensor,
        log_weight: Tensor | None,
        answers: Tensor | None,
        candidates: Tensor | None,
        own: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        if answers is not None and candidates is not None:
            torch.add(-_of_columns(candidates, scores), scores, alpha=scale, out=scores)
            scores[..., 0] -= answers
            if own is not None:
                scores[..., 1] -= own
        elif scale != 1:
            scores.mul_(scale)
        if log_weight is not None:
            scores[..., 0] -= log_weight[:, None]
        scores.view(-1).index_fill_(0, masked, -torch.inf)
        shares = torch.softmax(scores, -1, out=scores)
        # The negatives' share is summed too: where the positive's is near 1, one minus it would lose precision.
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
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        shares, negatives = ctx.saved_tensors
        weight = ctx.scale * gradient
        # A factor of another dtype than the shares' would trigger a slow conversion.
        shares.mul_(weight.to(shares.dtype).unsqueeze(-1))
        shares[..., 0] = -weight * negatives
        # Of the answers, the candidates and the query's own node: only a learned prior needs them.
        to_answers, to_candidates, to_own = ctx.needs_input_grad[3:6]
        first = 2 if to_own else 1
        return (
            shares, None, None,
            shares[..., 0].to(gradient.dtype) / -ctx.scale if to_answers else None,
            shares[..., first:].sum(1, dtype=gradient.dtype) / -ctx.scale if to_candidates else None,
            shares[..., 1].to(gradient.dtype) / -ctx.scale if to_own else None,
            None,
        )  # fmt: skip


def _corrected(scores: Tensor, correction: Correction | None) -> Tensor:
    """A copy of the scores, less the correction."""
    if correction is None:
        return scores
    scores = scores - _of_columns(correction.candidates, scores)
    scores[..., 0] -= correction.answers
    if correction.own is not None:
        scores[..., 1] -= correction.own
    return scores


def _of_columns(candidates: Tensor, scores: Tensor) -> Tensor:
    """The correction of the candidates' columns, [C, 1, 1 + K] or [C, 1, 2 + K], in the scores' dtype."""
    candidates = candidates.to(scores.dtype)
    return F.pad(candidates, (scores.shape[-1] - candidates.shape[-1], 0))[:, None]


def _mean_of_negatives(values: Tensor, masked: Tensor) -> Tensor:
    """Means [C, L] over the unmasked negatives of values [C, L, 1 + K]; 0 where all are masked."""
    columns = values.shape[-1]
    left_out = (masked // columns).bincount(minlength=values.numel() // columns).view(values.shape[:-1])
    counted = values.flatten().index_fill(0, masked, 0.0).view_as(values)
    return counted[..., 1:].sum(-1) / (columns - 1 - left_out).clamp(min=1)


def make_loss(model: Model) -> Loss:
    if model.loss == "softmax":
        return Softmax(model.temperature)
    return Ranking(model.margin) if model.loss == "ranking" else BinaryCrossEntropy()
