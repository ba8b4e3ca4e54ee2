"""The regression against its gradient, and AUCs and their intervals against the formulas in loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from twhin_core.evaluation.logistic import fit
from twhin_core.evaluation.probe_figures import ACCURACY, AUC, Estimate, estimates


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("ridge", [1.0, 1e-2, 1e-4])
def test_a_fit_is_where_its_gradient_vanishes(classes: int, ridge: float) -> None:
    """The objective is convex, so that is its only minimum."""
    rng = np.random.default_rng(classes)
    features = rng.normal(size=(300, 5))
    label = (features @ rng.normal(size=(5, classes)) + rng.gumbel(size=(300, classes))).argmax(1)
    model = fit(torch.from_numpy(features), torch.from_numpy(label), classes, ridge)
    coefficients, intercept = (of.numpy() for of in model)
    assert coefficients.shape == (5, 1 if classes == 2 else classes)
    scores = features @ coefficients + intercept
    if classes == 2:
        residual = 1 / (1 + np.exp(-scores)) - label[:, None]
    else:
        odds = np.exp(scores - scores.max(1, keepdims=True))
        residual = odds / odds.sum(1, keepdims=True) - np.eye(classes)[label]
    assert np.abs(features.T @ residual / 300 + 2 * ridge * coefficients).max() < 1e-6
    assert np.abs(residual.mean(0)).max() < 1e-6


def delong(scores: list[float], is_positive: list[bool]) -> tuple[float, float]:
    """The AUC and its variance by the formulas of DeLong et al. (1988)."""
    positive = [score for score, of in zip(scores, is_positive, strict=True) if of]
    negative = [score for score, of in zip(scores, is_positive, strict=True) if not of]

    def wins(one: float, other: float) -> float:
        return (one > other) + (one == other) / 2

    of_positive = [sum(wins(one, other) for other in negative) / len(negative) for one in positive]
    of_negative = [sum(wins(other, one) for other in positive) / len(positive) for one in negative]
    value = sum(of_positive) / len(positive)
    variance = sum(
        sum((each - value) ** 2 for each in of) / (len(of) - 1) / len(of) for of in (of_positive, of_negative)
    )
    return value, variance


@pytest.mark.parametrize("seed", range(10))
def test_of_two_classes_it_is_delongs_interval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(4, 60))
    label = np.concatenate([[0, 0, 1, 1], rng.integers(2, size=count)])
    scores = rng.integers(3 + seed, size=count + 4) / 7 + label * rng.random()  # with ties
    found = estimates(np.stack([np.zeros_like(scores), scores], 1), label, np.array([1]))
    value, variance = delong(scores.tolist(), (label == 1).tolist())
    reach = 1.959964 * math.sqrt(variance)
    assert found[AUC].value == pytest.approx(value)
    assert found[AUC].interval == pytest.approx([max(0, value - reach), min(1, value + reach)], abs=1e-12)
    share = ((scores > 0) == label).mean()  # of equals, the first class is predicted
    reach = 1.959964 * math.sqrt(share * (1 - share) / (len(label) - 1))
    assert found[ACCURACY].value == pytest.approx(share)
    assert found[ACCURACY].interval == pytest.approx([max(0, share - reach), min(1, share + reach)], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_of_more_classes_it_is_the_mean_of_one_against_the_rest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.arange(4), rng.integers(4, size=50)])
    scores = rng.normal(size=(54, 4))
    values = []
    for each in (0, 2, 3):
        own, others = scores[label == each, each], scores[label != each, each]
        values.append(np.mean([high > low for high, low in itertools.product(own, others)]))
    found = estimates(scores, label, np.array([0, 2, 3]))
    assert found[AUC].value == pytest.approx(np.mean(values))
    right = [row.index(max(row)) == of for row, of in zip(scores.tolist(), label.tolist(), strict=True)]
    assert found[ACCURACY].value == pytest.approx(np.mean(right))


@pytest.mark.parametrize("classes", [2, 4])
def test_intervals_hold_the_truth_as_often_as_they_say(classes: int) -> None:
    """Of scores by chance, .5; of the difference between two such, 0; within four standard deviations."""
    rng = np.random.default_rng(classes)
    held = {"auc": 0, "difference": 0, "accuracy": 0}
    for _ in range(300):
        label = rng.integers(classes, size=150)
        one, other = (estimates(rng.normal(size=(150, classes)), label, np.arange(classes)[-3:]) for _ in range(2))
        low, high = one[AUC].interval
        held["auc"] += low <= 0.5 <= high
        low, high = one[ACCURACY].interval
        held["accuracy"] += low <= 1 / classes <= high
        _, low, high = one[AUC].above(other[AUC])
        held["difference"] += low <= 0 <= high
    for name, count in held.items():
        assert count / 300 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 300)), name


def test_what_is_hard_about_a_node_does_not_widen_a_difference() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    one, other = Estimate(0.7, values / 400), Estimate(0.6, (values + 0.1 * rng.normal(size=400)) / 400)
    difference, low, high = one.above(other)
    assert difference == pytest.approx(0.1)
    assert high - low < (one.interval[1] - one.interval[0]) / 5
    assert one.above(one) == [0, 0, 0]


def test_a_constant_score_has_an_auc_of_a_half_and_no_doubt() -> None:
    found = estimates(np.zeros((6, 2)), np.array([0, 0, 0, 0, 1, 1]), np.array([1]))
    assert (found[AUC].value, found[AUC].interval) == (0.5, [0.5, 0.5])
    assert found[ACCURACY].value == pytest.approx(4 / 6)
