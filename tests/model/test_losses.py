"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from twhin_core.model.losses import BinaryCrossEntropy, Correction, Loss, Ranking, Softmax


def loss_of(loss: Loss, positive: float, negatives: list[float], masked: tuple[int, ...] = ()) -> float:
    """The loss of one positive against its negatives, except those numbered in `masked`."""
    out = torch.tensor(masked, dtype=torch.int64) + 1
    return loss(torch.tensor([[[positive, *negatives]]]), out).item()


def test_bce_by_hand() -> None:
    # σ(ln 3) = 3/4; negatives at 0 and ln 3 have 1 - σ of 1/2 and 1/4: -ln ¾ + (ln 2 + ln 4)/2.
    expected = -math.log(0.75) + (math.log(2) + math.log(4)) / 2
    assert loss_of(BinaryCrossEntropy(), math.log(3), [0.0, math.log(3)]) == pytest.approx(expected)


def test_softmax_by_hand() -> None:
    # Temperature ½ squares the odds: 9 / (9 + 1 + 4).
    expected = -math.log(9 / 14)
    assert loss_of(Softmax(0.5), math.log(3), [0.0, math.log(2)]) == pytest.approx(expected, rel=1e-6)


def test_softmax_of_negatives_that_stand_for_more_rows_by_hand() -> None:
    # As above, with each of the two negatives five times: 9 / (9 + 5 + 20).
    scores = torch.tensor([[[math.log(3), 0.0, math.log(2)]]])
    none = torch.tensor([], dtype=torch.int64)
    loss = Softmax(0.5)(scores, none, torch.tensor([math.log(5)]))
    assert loss.item() == pytest.approx(-math.log(9 / 34), rel=1e-6)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), Softmax(0.7), Ranking(0.9)], ids=["bce", "softmax", "ranking"])
def test_a_masked_negative_has_no_effect(loss: Loss) -> None:
    with_masked = loss_of(loss, 0.3, [1.0, 9.0, -2.0], (1,))
    assert with_masked == pytest.approx(loss_of(loss, 0.3, [1.0, -2.0]), rel=1e-6)


def test_ranking_by_hand() -> None:
    # Margins violated by 0.5 - 1 + 0.75, by nothing, and by 0.5 - 1 + 2.
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
        return (loss(values[None] * 1.0, torch.tensor([3, 5])) * weight).sum()

    total(scores).backward()
    assert scores.grad is not None
    for place in range(scores.numel()):
        step = torch.zeros(scores.numel(), dtype=torch.float64)
        step[place] = 1e-6
        slope = (total(scores.detach() + step.view(2, 4)) - total(scores.detach() - step.view(2, 4))) / 2e-6
        assert scores.grad.flatten()[place].item() == pytest.approx(slope.item(), abs=1e-8)


@pytest.mark.parametrize("has_own", [False, True])
@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), Softmax(0.7), Ranking(0.9)], ids=["bce", "softmax", "ranking"])
def test_a_correction_is_subtracted_from_logits_and_has_its_gradient(loss: Loss, has_own: bool) -> None:
    """As if the scores had been lower by so much in the first place, which autograd then tells apart."""
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(2, columns, dtype=torch.float64, generator=generator) for columns in (3, 4, 3)]
    scores = torch.randn(2, 3, 5 + has_own, dtype=torch.float64, generator=generator)
    masked, weight = torch.tensor([2, 9]), torch.rand(2, 3, dtype=torch.float64, generator=generator)
    ours, theirs = ([of.clone().requires_grad_() for of in parts[: 2 + has_own]] for _ in range(2))
    found = loss(scores.clone(), masked, None, Correction(*ours))
    of_answers, of_candidates, *own = theirs
    columns = [of_answers[..., None], *(of[..., None] for of in own), of_candidates[:, None].expand(-1, 3, -1)]
    expected = loss(scores - loss.temperature * torch.cat(columns, -1), masked)
    torch.testing.assert_close(found, expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert other.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, other.grad)


def test_a_masked_negative_has_a_gradient_of_zero() -> None:
    scores = torch.tensor([[[0.0, 1.0, 2.0]]], requires_grad=True)
    Softmax(1.0)(scores * 1.0, torch.tensor([1, 2])).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[[0.0, 0.0, 0.0]]]


def test_the_gradients_of_a_query_cancel_out_also_where_its_shares_are_rounded() -> None:
    scores = torch.randn(2, 3, 50, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    Softmax(0.3)(scores * 1.0, torch.tensor([7])).sum().backward()
    assert scores.grad is not None
    assert scores.grad.float().sum(-1).abs().max() < 2e-2  # of shares of up to 1 with eight binary digits
    assert scores.grad[..., 0].max() < 0 < scores.grad[..., 1:].max()


def test_the_loss_is_exact_where_the_positive_has_nearly_all_or_nearly_nothing() -> None:
    assert loss_of(Softmax(1.0), 30.0, [0.0]) == pytest.approx(math.exp(-30), rel=1e-4)
    assert loss_of(Softmax(1.0), -60.0, [0.0]) == pytest.approx(60.0, rel=1e-5)


def test_scores_as_large_as_they_come_do_not_overflow() -> None:
    assert loss_of(Softmax(0.01), 500.0, [499.0, -500.0]) == pytest.approx(0.0, abs=1e-6)
    assert loss_of(BinaryCrossEntropy(), -500.0, [500.0]) == pytest.approx(1000.0)


def with_explicit(
    loss: Loss, drawn: list[float], explicit: list[float], share: float, weight: float = 1.0, gone: tuple[int, ...] = ()
) -> float:
    """The loss of a positive of score 0 against drawn negatives that weigh `weight` each, and explicit ones."""
    of_drawn = loss(
        torch.tensor([[[0.0, *drawn]]]),
        torch.tensor([], dtype=torch.int64),
        torch.tensor([math.log(weight)]) if weight != 1 else None,
    )
    is_there = torch.tensor([[[place not in gone for place in range(len(explicit))]]])
    logits, share_of = torch.tensor([[explicit]]) / loss.temperature, torch.tensor([[share]])
    log_drawn = torch.tensor([math.log(weight * len(drawn))])
    return loss.with_explicit(of_drawn, torch.zeros(1, 1), logits, is_there, share_of, log_drawn).item()


LN2, LN3 = math.log(2), math.log(3)

EXPLICIT = [
    # The drawn weigh 2, so explicit ones of a share of 1/2 weigh 2 together: 1 / (1 + 1 + 3 + 2·2).
    (Softmax(1.0), [0.0, LN3], [LN2], 0.5, 1, (), math.log(9)),
    # Two of them weigh 1 each.
    (Softmax(1.0), [0.0, LN3], [LN2, LN3], 0.5, 1, (), math.log(10)),
    # A share of 1/3 is half the weight of the drawn: 1 / (1 + 1 + 3 + 1·2).
    (Softmax(1.0), [0.0, LN3], [LN2], 1 / 3, 1, (), math.log(7)),
    # Drawn ones that stand for 5 rows each: 1 / (1 + 5 + 15 + 10·2).
    (Softmax(1.0), [0.0, LN3], [LN2], 0.5, 5, (), math.log(41)),
    # Temperature 1/2 squares the odds: 1 / (1 + 1 + 9 + 2·4).
    (Softmax(0.5), [0.0, LN3], [LN2], 0.5, 1, (), math.log(19)),
    # Only one of two is there.
    (Softmax(1.0), [0.0, LN3], [50.0, LN2], 0.5, 1, (0,), math.log(9)),
    # ln 2 of the positive, half of ln 2 of the drawn, and half of -ln(1 - 3/4) of the explicit.
    (BinaryCrossEntropy(), [0.0], [LN3], 0.5, 1, (), LN2 + LN2 / 2 + math.log(4) / 2),
    (BinaryCrossEntropy(), [0.0], [LN3, 0.0], 0.25, 1, (), LN2 + 0.75 * LN2 + 0.25 * (math.log(4) + LN2) / 2),
    (BinaryCrossEntropy(), [0.0], [LN3, 9.0], 0.5, 1, (1,), LN2 + LN2 / 2 + math.log(4) / 2),
    # Margins violated by 0.5 + 0 and 0.5 + 0.3, the latter with a share of 0.9.
    (Ranking(0.5), [0.0], [0.3, -2.0], 0.9, 1, (1,), 0.1 * 0.5 + 0.9 * 0.8),
    (Ranking(0.5), [0.0], [0.3, -2.0], 0.9, 1, (), 0.1 * 0.5 + 0.9 * 0.4),
]


@pytest.mark.parametrize(("loss", "drawn", "explicit", "share", "weight", "gone", "expected"), EXPLICIT)
def test_explicit_negatives_by_hand(
    loss: Loss,
    drawn: list[float],
    explicit: list[float],
    share: float,
    weight: float,
    gone: tuple[int, ...],
    expected: float,
) -> None:
    assert with_explicit(loss, drawn, explicit, share, weight, gone) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), Softmax(0.7), Ranking(0.9)], ids=["bce", "softmax", "ranking"])
def test_without_explicit_negatives_or_a_share_the_loss_and_its_gradient_stay_as_they_are(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(3)
    scores, logits = (torch.randn(2, 3, columns, generator=generator) for columns in (5, 4))
    none, is_there = torch.tensor([], dtype=torch.int64), torch.ones(2, 3, 4, dtype=torch.bool)
    for there, share in ((~is_there, 0.4), (is_there, 0.0)):
        plain, mixed = (scores.clone().requires_grad_() for _ in range(2))
        explicit = logits.clone().requires_grad_()
        expected = loss(plain * 1.0, none)
        of_drawn, positive = loss(mixed * 1.0, none), mixed[..., 0] / loss.temperature
        shares, log_drawn = torch.full((2, 3), share), torch.full((2,), math.log(4))
        found = loss.with_explicit(of_drawn, positive, explicit, there, shares, log_drawn)
        assert torch.equal(found, expected)
        found.sum().backward()
        expected.sum().backward()
        assert torch.equal(mixed.grad, plain.grad)
        assert explicit.grad.abs().max() == 0
