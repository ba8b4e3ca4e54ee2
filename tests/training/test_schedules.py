"""Rates worked out by hand, and weights that follow them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from tests.training.same_result import assert_same_result
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.config.optimizer import Optimizer
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.schedules import rate, until


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


def falling(small_config: SmallConfig, final_num_steps: int | None, **training: int) -> Config:
    """The table `user` and the relations fall to 0 in a cosine, `tweet` keeps its rate."""
    cosine = {"learning_rate": 0.1, "final_learning_rate": 0.0, "num_ramp_steps": 1, "final_num_steps": final_num_steps}
    schedule = {"learning_rate": {"linear_ramp_to_cosine": cosine}}
    user = {"rowwise_adagrad": {"lr": 0.1}, **schedule}
    tweet = {"rowwise_adagrad": {"lr": 0.1}}
    tables = [{"name": name, "embedding_dim": 8, "optimizer": of} for name, of in (("user", user), ("tweet", tweet))]
    model = {"embeddings": {"tables": tables}, "translation_optimizer": {"adagrad": {"lr": 0.1}, **schedule}}
    return small_config(model=model, training=training)


def test_a_cosine_without_an_end_ends_with_training(small_config: SmallConfig) -> None:
    of = until(5, falling(small_config, None)).model
    # (1 + cos(π k / 4)) / 2, k steps after the ramp of one.
    expected = {1: 0.1, 2: 0.0853553, 3: 0.05, 4: 0.0146447, 5: 0.0}
    for choice in (of.table("user").optimizer, of.translation_optimizer):
        assert {step: rate(choice, step) for step in expected} == pytest.approx(expected, abs=1e-7)
    assert rate(of.table("tweet").optimizer, 5) == 0.1
    stated = falling(small_config, 9)
    assert until(5, stated) == stated


@pytest.mark.parametrize(("training", "last_step"), [({"num_epochs": 2}, 16), ({"num_train_steps": 11}, 11)])
def test_a_run_whose_rates_end_with_it_is_one_that_states_its_last_step(
    training: dict[str, int], last_step: int, small_config: SmallConfig, tmp_path: Path
) -> None:
    for name, final_num_steps in (("left_out", None), ("stated", last_step)):
        config = falling(small_config, final_num_steps, **training)
        prepare(config, str(tmp_path / name))
        train(config, str(tmp_path / name))
    assert_same_result(str(tmp_path / "left_out"), str(tmp_path / "stated"))
