"""SIGTERM to `twhin run` reaches the running step, which ends as it does alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.command_line import COMMAND, ROOT, assert_refused
from tests.conftest import SmallConfig
from twhin_core import config_file
from twhin_core.training import checkpoint


def test_training_keeps_its_step_before_the_whole_run_ends(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(training={"num_epochs": 2000, "checkpoint_every_n": 100_000, "train_log_every_n": 10})
    path, root = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(config_file.to_yaml(config))
    process = subprocess.Popen(
        [*COMMAND, "run", str(path), "--run-root", str(root)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(root.glob("training/events*")):  # there since the first line is logged
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    newest = checkpoint.newest(str(root))
    assert newest is not None
    ended = subprocess.CompletedProcess(process.args, process.returncode, "", errors)
    assert_refused(ended, f"SIGTERM: stopped after step {newest.step}; ", exit_code=75)
