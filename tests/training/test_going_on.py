"""A trained run goes on under a changed config where the change would not have changed what it has learned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig, small_configs
from tests.training.same_result import assert_same_result
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

Trained = tuple[Config, str]


def cosine(last: int | None) -> dict[str, Any]:
    """A translation optimizer whose rate falls until the step `last`, or until the last of training."""
    falling = {"learning_rate": 0.1, "final_learning_rate": 0.0, "num_ramp_steps": 2, "final_num_steps": last}
    return {"adagrad": {"lr": 0.1}, "learning_rate": {"linear_ramp_to_cosine": falling}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallConfig, str]:
    """A `small_config`, and the root of a run that is prepared by it and that tests leave as it is."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(small_configs(folder)(), str(folder / "run"))
    return small_configs(folder), str(folder / "run")


def run(config: Config, root: str) -> int:
    """Prepares and trains. Gives the step of the newest checkpoint."""
    prepare(config, root)
    train(config, root)
    newest = checkpoint.newest(root)
    assert newest is not None
    return newest.step


def changed(config: Config, small_config: SmallConfig, sections: dict[str, Any]) -> Config:
    """`small_config(**sections)` with the raw file of `config`."""
    assert config.prepare is not None
    sources = [{"path": config.prepare.sources[0].path, "relation_column": "relation"}]
    return small_config(**{**sections, "prepare": {**sections.get("prepare", {}), "sources": sources}})


# An epoch has 8 steps.
LONGER: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "more epochs": ({"num_epochs": 1}, {"num_epochs": 3}, 24),
    "more steps": ({"num_train_steps": 5}, {"num_train_steps": 11}, 11),
    "all steps": ({"num_train_steps": 3, "num_epochs": 2}, {"num_train_steps": None, "num_epochs": 2}, 16),
    "both": ({"num_epochs": 1, "num_train_steps": 4}, {"num_epochs": 2, "num_train_steps": 12}, 12),
    "more often logged": ({"train_log_every_n": 7, "num_epochs": 1}, {"train_log_every_n": 2, "num_epochs": 2}, 16),
    "fewer checkpoints": (
        {"checkpoint_every_n": 2, "num_epochs": 1},
        {"checkpoint_every_n": 100, "checkpoint_max_to_keep": 1, "num_epochs": 2, "save_dir": "elsewhere"},
        16,
    ),
}


@pytest.mark.parametrize(("first", "then", "last"), LONGER.values(), ids=LONGER)
def test_a_run_that_is_trained_longer_equals_one_that_was_from_the_start(
    first: dict[str, Any], then: dict[str, Any], last: int, prepared: tuple[SmallConfig, str], tmp_path: Path
) -> None:
    small_config, root = prepared
    extended, straight = (str(shutil.copytree(root, tmp_path / name)) for name in ("extended", "straight"))
    assert run(small_config(training=first), extended) < last
    assert run(small_config(training=then), extended) == run(small_config(training=then), straight) == last
    assert_same_result(extended, straight)
    saved = config_file.load(f"{extended}/config.yaml").training
    assert saved == small_config(training=then).training
    assert evaluate(small_config(training=then), extended) == evaluate(small_config(training=then), straight)


ACCEPTED: dict[str, dict[str, Any]] = {
    "training": {
        "train_log_every_n": 50, "checkpoint_every_n": 50, "checkpoint_max_to_keep": 3, "save_dir": "elsewhere",
        "eval_timeout_in_s": 7, "readers_timeout_in_s": 7,
    },
    "prepare": {"memory_limit": "400MB", "temp_directory": ".", "changed_files": "keep"},
    "evaluation": {"candidates": 20, "bootstrap": 20},
    "export": {"formats": ["npy"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, keys in ACCEPTED.items() for key in keys], ids=str
)
def test_what_has_no_effect_on_the_result_may_change(
    section: str, key: str, trained: Trained, small_config: SmallConfig
) -> None:
    before, root = trained
    config = changed(before, small_config, {section: {key: ACCEPTED[section][key]}})
    assert run(config, root) == 16
    assert config_file.load(f"{root}/config.yaml") == config


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fewer epochs": ({"training": {"num_epochs": 1}}, "training.num_epochs was 2 and is 1"),
    "an end": ({"training": {"num_train_steps": 20}}, "training.num_train_steps was None and is 20"),
    "more epochs and another seed": ({"training": {"num_epochs": 3, "seed": 1}}, "training.seed was 0 and is 1"),
    "when early stopping looks": ({"training": {"eval_log_every_n": 4}}, "training.eval_log_every_n was 1000 and is 4"),
    "the batch": ({"train_data": {"per_replica_batch_size": 65}}, "train_data.per_replica_batch_size was 64 and is 65"),
    "an operator": (
        {"model": {"relations": [
            {"name": "follow", "lhs": "user", "rhs": "user", "operator": "diagonal"},
            {"name": "fav", "lhs": "user", "rhs": "tweet"},
        ]}},
        "model.relations.0.operator was 'translation' and is 'diagonal'",
    ),
    "precision": ({"runtime": {"enable_amp": True}}, "runtime.enable_amp was False and is True"),
}  # fmt: skip


@pytest.mark.parametrize(("sections", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_an_effect_is_refused(
    sections: dict[str, Any], message: str, trained: Trained, small_config: SmallConfig
) -> None:
    config, root = trained
    with pytest.raises(UserError) as refused:
        train(changed(config, small_config, sections), root)
    assert f"made with another config: {message}; use another --run-root" in str(refused.value)


def test_a_rate_that_falls_until_the_end_binds_the_end(prepared: tuple[SmallConfig, str], tmp_path: Path) -> None:
    small_config, root = prepared
    for name in ("open", "fixed", "straight"):
        shutil.copytree(root, tmp_path / name)

    def config(epochs: int, last: int | None) -> Config:
        return small_config(training={"num_epochs": epochs}, model={"translation_optimizer": cosine(last)})

    run(config(1, None), str(tmp_path / "open"))
    with pytest.raises(UserError, match=r"training\.num_epochs was 1 and is 2"):
        train(config(2, None), str(tmp_path / "open"))
    run(config(1, 8), str(tmp_path / "fixed"))
    assert run(config(2, 8), str(tmp_path / "fixed")) == run(config(2, 8), str(tmp_path / "straight")) == 16
    assert_same_result(str(tmp_path / "fixed"), str(tmp_path / "straight"))


def test_operators_and_weights_may_change_until_there_is_a_checkpoint(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    relations = [
        {"name": "follow", "lhs": "user", "rhs": "user", "operator": "diagonal", "weight": 0.5},
        {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": "linear"},
    ]
    changed = small_config(model={"relations": relations})
    prepare(small_config(), str(tmp_path / "changed"))
    assert run(changed, str(tmp_path / "changed")) == run(changed, str(tmp_path / "straight"))
    assert_same_result(str(tmp_path / "changed"), str(tmp_path / "straight"))
