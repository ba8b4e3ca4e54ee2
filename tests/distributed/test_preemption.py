"""SIGTERM: writes a checkpoint of the current step and exits with 75; the run resumes from there."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.command_line import assert_refused, terminate_training, twhin
from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from tests.training.same_result import assert_same_result
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import Preempted
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.optimizers import Optimizers

FALLING = {
    "adagrad": {"lr": 0.1},
    "learning_rate": {"linear_ramp_to_cosine": {"learning_rate": 0.1, "final_learning_rate": 0.0, "num_ramp_steps": 1}},
}
"""Rates that end with training, wherever it was stopped."""


def test_a_preempted_run_exits_with_75_and_resumes_to_the_same_weights(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    config = small_config(
        model={"translation_optimizer": FALLING},
        training={"num_epochs": 40, "checkpoint_every_n": 1000, "train_log_every_n": 50},
    )
    path, root = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(config_file.to_yaml(config))
    prepare(config, str(root))
    stopped = terminate_training("train", path, root)
    assert_refused(stopped, "SIGTERM: stopped after step", "run it again", exit_code=75)
    newest = checkpoint.newest(str(root))
    assert newest is not None
    assert f"stopped after step {newest.step};" in stopped.stderr
    assert newest.step % 1000 != 0
    assert not (root / FINISHED).exists()

    again = twhin("train", path, "--run-root", root)
    assert again.returncode == 0, again.stderr
    assert f"resumes from the checkpoint of step {newest.step}\n" in again.stderr
    assert (root / FINISHED).exists()
    undisturbed = tmp_path / "undisturbed"
    prepare(config, str(undisturbed))
    train(config, str(undisturbed))
    assert_same_result(str(root), str(undisturbed))


def stopped_at_its_13th_step(config: Config, root: str) -> str:
    """Trains on a rank; only the second is told to stop. Returns how it ended."""
    steps, start = 0, Optimizers.start

    def counted(optimizers: Optimizers) -> None:
        nonlocal steps
        steps += 1
        if steps == 13 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        start(optimizers)

    Optimizers.start = counted  # type: ignore[method-assign] # in its own process
    try:
        train(config, root)
    except Preempted as end:
        return str(end)
    return "not stopped"


def test_all_ranks_stop_after_the_same_step(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(training={"num_epochs": 20}, train_data={"per_replica_batch_size": 32})
    root = str(tmp_path / "run")
    prepare(config, root)
    ends = run_ranks(2, stopped_at_its_13th_step, config, root)
    assert ends[0] == ends[1]
    found = re.fullmatch(r"SIGTERM: stopped after step (\d+); .*", ends[0])
    assert found is not None, ends[0]
    assert 13 < int(found[1]) <= 23, "they vote every 10 steps"
    newest = checkpoint.newest(root)
    assert newest is not None
    assert newest.step == int(found[1])


def test_the_previous_handler_is_restored(small_config: SmallConfig, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    config = small_config(training={"num_train_steps": 2})
    prepare(config, str(tmp_path / "run"))
    train(config, str(tmp_path / "run"))
    assert signal.getsignal(signal.SIGTERM) is before
