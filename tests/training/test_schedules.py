"""Rates worked out by hand, and weights that follow them."""

from __future__ import annotations

import pytest

from twhin_core import config_file
from twhin_core.config import Optimizer
from twhin_core.training.schedules import rate


def optimizer(lr: float, schedule: dict[str, object] | None) -> Optimizer:
    tree = {"sgd": {"lr": lr}} if schedule is None else {"sgd": {"lr": lr}, "learning_rate": schedule}
    return config_file.validate(Optimizer, tree, "test")


RAMP = {"linear_ramp_to_constant": {"learning_rate": 0.8, "num_ramp_steps": 4}}
COSINE = {
    "linear_ramp_to_cosine": {
        "learning_rate": 0.8,
        "final_learning_rate": 0.2,
        "num_ramp_steps": 2,
        "final_num_steps": 8,
    }
}
PIECEWISE = {
    "piecewise_constant": {"learning_rate_boundaries": [2, 5], "learning_rate_values": [0.8, 0.4, 0.1]},
}

EXPECTED = {
    "none": (None, {1: 0.8, 1000: 0.8}),
    "constant": ({"constant": 0.8}, {1: 0.8, 1000: 0.8}),
    "ramp": (RAMP, {1: 0.2, 2: 0.4, 3: 0.6, 4: 0.8, 5: 0.8, 1000: 0.8}),
    # 0.2 + 0.6 (1 + cos(π k / 6)) / 2, k steps after the ramp: cos is √3/2, 1/2, 0, -1/2, -√3/2, -1.
    "cosine": (
        COSINE,
        {1: 0.4, 2: 0.8, 3: 0.7598076, 4: 0.65, 5: 0.5, 6: 0.35, 7: 0.2401924, 8: 0.2, 9: 0.2, 1000: 0.2},
    ),
    "piecewise": (PIECEWISE, {1: 0.8, 2: 0.8, 3: 0.4, 5: 0.4, 6: 0.1, 1000: 0.1}),
}


@pytest.mark.parametrize(("schedule", "expected"), EXPECTED.values(), ids=EXPECTED)
def test_the_rate_of_a_step(schedule: dict[str, object] | None, expected: dict[int, float]) -> None:
    choice = optimizer(0.8, schedule)
    assert {step: rate(choice, step) for step in expected} == pytest.approx(expected, abs=1e-7)
