"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from twhin_core.model.losses import BinaryCrossEntropy, Loss, Ranking, Softmax


def loss_of(loss: Loss, positive: float, negatives: list[float], masked: tuple[int, ...] = ()) -> float:
    """The loss of one positive with its negatives."""
    out = torch.tensor(masked, dtype=torch.int64)
    return loss(torch.tensor([[positive]]), torch.tensor([[negatives]]), out).item()


def test_bce_by_hand() -> None:
    # σ(ln 3) = 3/4; negatives at 0 and ln 3 have 1 - σ of 1/2 and 1/4: -ln ¾ + (ln 2 + ln 4)/2.
    expected = -math.log(0.75) + (math.log(2) + math.log(4)) / 2
    assert loss_of(BinaryCrossEntropy(), math.log(3), [0.0, math.log(3)]) == pytest.approx(expected)


def test_softmax_by_hand() -> None:
    # Temperature ½ squares the odds: 9 / (9 + 1 + 4).
    expected = -math.log(9 / 14)
    assert loss_of(Softmax(0.5), math.log(3), [0.0, math.log(2)]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), Softmax(0.7), Ranking(0.9)], ids=["bce", "softmax", "ranking"])
def test_a_masked_negative_is_as_good_as_none(loss: Loss) -> None:
    with_masked = loss_of(loss, 0.3, [1.0, 9.0, -2.0], (1,))
    assert with_masked == pytest.approx(loss_of(loss, 0.3, [1.0, -2.0]), rel=1e-6)


def test_ranking_by_hand() -> None:
    # Margins missed by 0.5 - 1 + 0.75, by nothing, and by 0.5 - 1 + 2.
    assert loss_of(Ranking(0.5), 1.0, [0.75, 0.25, 2.0]) == pytest.approx((0.25 + 0 + 1.5) / 3)


def test_without_any_negative_left_only_the_positive_counts() -> None:
    assert loss_of(Softmax(1.0), 0.3, [5.0], (0,)) == pytest.approx(0.0)
    assert loss_of(BinaryCrossEntropy(), 0.0, [5.0], (0,)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), Softmax(0.7), Ranking(0.9)], ids=["bce", "softmax", "ranking"])
def test_gradients_equal_finite_differences(loss: Loss) -> None:
    # Each row a positive, then its negatives; the last of the first and the first of the second are masked.
    scores = torch.tensor([[0.3, 0.4, -1.2, 2.0], [-0.8, 0.1, 0.0, -0.3]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.5, 0.5]], dtype=torch.float64)

    def total(values: torch.Tensor) -> torch.Tensor:
        return (loss(values[None, :, 0], values[None, :, 1:] * 1.0, torch.tensor([2, 3])) * weight).sum()

    total(scores).backward()
    assert scores.grad is not None
    for place in range(scores.numel()):
        step = torch.zeros(scores.numel(), dtype=torch.float64)
        step[place] = 1e-6
        slope = (total(scores.detach() + step.view(2, 4)) - total(scores.detach() - step.view(2, 4))) / 2e-6
        assert scores.grad.flatten()[place].item() == pytest.approx(slope.item(), abs=1e-8)


def test_a_masked_negative_has_a_gradient_of_zero() -> None:
    negatives = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    Softmax(1.0)(torch.zeros(1, 1), negatives * 1.0, torch.tensor([0, 1])).sum().backward()
    assert negatives.grad is not None
    assert negatives.grad.tolist() == [[[0.0, 0.0]]]


def test_scores_as_large_as_they_come_do_not_overflow() -> None:
    assert loss_of(Softmax(0.01), 500.0, [499.0, -500.0]) == pytest.approx(0.0, abs=1e-6)
    assert loss_of(BinaryCrossEntropy(), -500.0, [500.0]) == pytest.approx(1000.0)
