"""Validation during training, and early stopping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.config import EarlyStopping
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.validation import Patience


def lines(root: Path, key: str) -> dict[int, float]:
    logged = map(json.loads, (root / "training/metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[key] for line in logged if key in line}


@pytest.mark.parametrize(
    ("figures", "stops_after"),
    [([3, 2, 1, 0.5], None), ([3, 2, 2.5, 2.1], 4), ([3, 2, 2.5, 1.9, 2, 2], 6), ([3, 3, 3], 3)],
)
def test_patience_ends_after_as_many_validations_without_a_new_lowest(
    figures: list[float], stops_after: int | None
) -> None:
    patience = Patience(EarlyStopping(patience=2), past=[])
    ends = []
    for step, figure in enumerate(figures, 1):
        patience.add(step, figure)
        if patience.is_over:
            ends.append(step)
    assert ends[:1] == ([] if stops_after is None else [stops_after])


def overfitting(small_config: SmallConfig, **training: Any) -> Any:
    """Few edges over many epochs: the validation loss must rise."""
    return small_config(
        training={"num_epochs": 100, "eval_log_every_n": 8, "checkpoint_every_n": 30, **training},
        train_data={"limit": 100},
    )


def test_training_ends_when_the_validation_loss_no_longer_falls(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = overfitting(small_config, early_stopping={"patience": 3}), tmp_path / "run"
    prepare(config, str(root))
    train(config, str(root))
    losses = lines(root, "validation_loss")
    # By hand: the first validation that is the third in a row without a new lowest.
    best = since = end = 0
    for step, loss in losses.items():
        best, since = (step, 0) if not best or loss < losses[best] else (best, since + 1)
        if since == 3:
            end = step
            break
    assert end == best + 24
    assert list(losses) == list(range(8, end + 1, 8))
    newest = checkpoint.newest(str(root))
    assert newest is not None
    assert newest.step == end, "the last step has a checkpoint, whatever the interval"
    finished = storage.read_json(str(root / FINISHED))
    assert finished == {"step": end, "reason": f"the validation loss has not fallen since step {best}"}

    train(config, str(root))
    newest = checkpoint.newest(str(root))
    assert newest is not None
    assert newest.step == end, "started again, it has finished"


def test_a_resumed_run_stops_where_an_uninterrupted_one_does(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = overfitting(small_config, early_stopping={"patience": 3}), tmp_path / "run"
    prepare(config, str(root))
    train(config, str(root))
    newest = checkpoint.newest(str(root))
    assert newest is not None
    end, best = newest.step, json.loads((root / FINISHED).read_text())["reason"]
    checkpoint.remove(newest)
    before = checkpoint.newest(str(root))
    assert before is not None
    assert 0 < before.step < end
    train(config, str(root))
    again = checkpoint.newest(str(root))
    assert again is not None
    assert again.step == end
    assert json.loads((root / FINISHED).read_text())["reason"] == best


def test_num_eval_steps_says_how_many_batches_are_validated(small_config: SmallConfig, tmp_path: Path) -> None:
    """About 60 validation edges are 4 batches of 16: 9 covers all of them, and the losses over 1 and 2 differ."""
    losses = []
    for count in (1, 2, 4, 9):
        config = small_config(
            training={"num_train_steps": 3, "num_eval_steps": count, "eval_log_every_n": 3},
            train_data={"per_replica_batch_size": 16, "chunk_size": None},
        )
        root = tmp_path / str(count)
        prepare(config, str(root))
        train(config, str(root))
        losses.append(lines(root, "validation_loss")[3])
    assert losses[2] == losses[3]
    assert len(set(losses)) == 3


def test_early_stopping_without_validation_edges_is_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(
        training={"early_stopping": {"patience": 3}}, prepare={"split": {"validation": 0.0, "test": 0.1}}
    )
    prepare(config, str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"training\.early_stopping: there are no validation edges"):
        train(config, str(tmp_path / "run"))


def test_negatives_of_validation_follow_the_counts_of_training(small_config: SmallConfig, tmp_path: Path) -> None:
    """With few training edges, most held-out nodes are never counted; their correction is still finite."""
    config = small_config(
        training={"num_epochs": 1, "eval_log_every_n": 1},
        train_data={"limit": 64, "in_batch_negatives": 4, "global_negatives_power": 0.75, "logq_correction": True},
    )
    prepare(config, str(tmp_path / "run"))
    train(config, str(tmp_path / "run"))
    losses = lines(tmp_path / "run", "validation_loss")
    assert list(losses) == [1]
    assert 0 < losses[1] < 10
