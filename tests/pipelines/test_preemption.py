"""SIGTERM to `twhin run` reaches the running step, which ends as it does alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import assert_refused, terminate_training
from tests.conftest import SmallConfig
from twhin_core.checkpoints import checkpoint
from twhin_core.config import file as config_file


@pytest.mark.slow
def test_training_keeps_its_step_before_the_whole_run_ends(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(training={"num_epochs": 2000, "checkpoint_every_n": 100_000, "train_log_every_n": 10})
    path, root = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(config_file.to_yaml(config))
    ended = terminate_training("run", path, root)
    newest = checkpoint.newest(str(root))
    assert newest is not None
    assert_refused(ended, f"SIGTERM: stopped after step {newest.step}; ", exit_code=75)
