"""The state of a sweep in its file: whoever opens it finds the same, and goes on in the same way."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.tuning.page import tried
from twhin_core.tuning.study import Study, check_installed, values_of

SPACE = {
    "model.temperature": {"log": [0.1, 10.0]},
    "train_data.global_negatives": {"log_integer": [4, 64]},
    "model.comparator": {"choice": ["dot", "l2"]},
    "model.init_std": {"uniform": [0.01, 0.1], "when": {"model.comparator": "dot"}},
}


@pytest.fixture
def config(small_config: SmallConfig) -> Config:
    check_installed()
    return small_config(sweep={"space": SPACE, "trials": 30, "seed": 5})


def figure(values: dict[str, Any]) -> float:
    """The best temperature is 1."""
    return -abs(values["model.temperature"] - 1.0)


def run(study: Study, trials: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(trials):
        trial = study.ask()
        values = values_of(trial, study.sweep)
        study.tell(trial, figure(values))
        found.append(values)
    return found


def test_what_is_tried_does_not_depend_on_which_processes_ask(config: Config, tmp_path: Path) -> None:
    at_once = run(Study(config, str(tmp_path / "once")), 12)
    in_parts = [values for part in (1, 4, 2, 5) for values in run(Study(config, str(tmp_path / "parts")), part)]
    assert in_parts == at_once
    assert len({values["model.temperature"] for values in at_once}) == 12, "a draw was repeated"
    assert at_once[0]["model.temperature"] == 1.0  # the config's own
    assert all(("model.init_std" in values) == (values["model.comparator"] == "dot") for values in at_once)
    assert {values["model.comparator"] for values in at_once} == {"dot", "l2"}
    for values in at_once:
        assert 0.1 <= values["model.temperature"] <= 10.0
        assert values["train_data.global_negatives"] in range(4, 65)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("trials", [3, 12])
def test_keys_that_only_some_trials_have_get_no_importance(config: Config, tmp_path: Path, trials: int) -> None:
    study = Study(config, str(tmp_path))
    with_key = ["model.init_std" in values for values in run(study, trials)]
    assert any(with_key)
    assert not all(with_key)
    found = study.importances()
    assert set(found) == {key for key, of in SPACE.items() if "when" not in of}
    assert sum(found.values()) == pytest.approx(1.0)
    assert trials < 12 or max(found, key=found.__getitem__) == "model.temperature"


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_table_starts_with_the_best_also_if_its_training_ended_early(
    direction: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    check_installed()
    study = Study(small_config(sweep={"space": SPACE, "direction": direction}), str(tmp_path))
    sign = 1 if direction == "maximize" else -1
    for share, figure, ends in ((1.0, 0.8, True), (0.5, 0.9, True), (0.25, 0.7, False), (0.75, 0.1, False)):
        trial = study.ask()
        study.note(trial, [(share, sign * figure)], 1.0)
        study.tell(trial, sign * figure if ends else None)
    assert [of.number for of in tried(study)] == [2, 1, 4, 3]
    assert study.best is not None
    assert study.best.number + 1 == 2


def test_a_trial_that_was_left_has_its_values_and_its_curve(config: Config, tmp_path: Path) -> None:
    study, draw = Study(config, str(tmp_path)), random.Random(1)
    values, curves = [], []
    for _ in range(3):
        trial, curve = study.ask(), list[tuple[float, float]]()
        values.append(values_of(trial, study.sweep))
        for look in range(draw.randint(1, 4)):
            curve.append((look / 4, draw.random()))
            study.note(trial, curve, 1.5 * len(curve))
        curves.append(curve)
    again = Study(config, str(tmp_path))
    assert [values_of(trial, again.sweep) for trial in again.left()] == values
    assert [of.curve for of in sorted(tried(again), key=lambda of: of.number)] == curves
    for trial in again.left():
        again.tell(trial, 0.5)
    assert not again.left()
    assert sorted((of.number, of.curve, of.seconds) for of in tried(again)) == [
        (number + 1, curve, 1.5 * len(curve)) for number, curve in enumerate(curves)
    ]
    assert {of.number: of.curve for of in tried(Study(config, str(tmp_path)))} == {
        number + 1: curve for number, curve in enumerate(curves)
    }


@pytest.mark.parametrize(
    ("budget", "seconds", "spent"),
    [
        (None, [1e9], False),
        ("1m", [30.0, 29.0], False),
        ("1m", [30.0, 30.0], True),
        ("2h", [7199.0], False),
        ("2h", [7200.0], True),
        (3, [10.0, 19.0], False),
        (3, [10.0, 20.0], True),
        (0.5, [10.0], True),
    ],
)  # fmt: skip
def test_a_budget_is_a_duration_or_so_many_first_trials(
    budget: Any, seconds: list[float], spent: bool, small_config: SmallConfig, tmp_path: Path
) -> None:
    check_installed()
    study = Study(small_config(sweep={"space": SPACE, "budget": budget}), str(tmp_path))
    for of in seconds:
        trial = study.ask()
        values_of(trial, study.sweep)
        study.note(trial, [(1.0, 0.5)], of)
        study.tell(trial, 0.5)
    assert study.is_over_budget() == spent


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_trial_is_the_complete_one_with_the_best_figure(
    direction: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    check_installed()
    study = Study(small_config(sweep={"space": SPACE, "direction": direction}), str(tmp_path))
    for number, (value, complete) in enumerate([(0.3, True), (0.9, False), (0.5, True), (0.1, False), (0.2, True)]):
        trial = study.ask()
        values_of(trial, study.sweep)
        study.note(trial, [(1.0 if complete else 0.5, value)], 1.0)
        study.tell(trial, value if complete else None, "" if complete else f"stopped {number}")
    best = study.best
    assert best is not None
    assert best.number == (2 if direction == "maximize" else 4)
    ordered = [(of.number, of.state) for of in tried(study)]
    expected = [3, 1, 5, 2, 4] if direction == "maximize" else [5, 1, 3, 4, 2]
    assert ordered == [(number, "stopped" if number in (2, 4) else "complete") for number in expected]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model": {"margin": 0.2, "loss": "ranking"}}, "model."),
        ({"training": {"seed": 3}}, "training.seed"),
        ({"sweep": {"seed": 6}}, "sweep.seed"),
        ({"sweep": {"metric": "validation.all.mrr"}}, "sweep.metric"),
        ({"sweep": {"trials": 40, "budget": "3h", "parallelism": 2, "stopping": "asha"}}, None),
        ({"training": {"train_log_every_n": 7}, "evaluation": {"headline": "mrr"}}, None),
    ],
)
def test_a_root_stays_with_its_config(
    changes: dict[str, Any], key: str | None, small_config: SmallConfig, tmp_path: Path
) -> None:
    check_installed()
    sweep = {"space": SPACE, "trials": 30, "seed": 5}
    Study(small_config(sweep=sweep), str(tmp_path))
    changed = small_config(**{**changes, "sweep": {**sweep, **changes.get("sweep", {})}})
    if key is None:
        Study(changed, str(tmp_path))
        return
    with pytest.raises(UserError, match=key):
        Study(changed, str(tmp_path))
