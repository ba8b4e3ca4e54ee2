"""What is killed goes on from its newest checkpoint, and ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.command_line import COMMAND, ROOT, twhin
from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from twhin_core import config_file
from twhin_core.config import Config
from twhin_core.graph.prepare import prepare
from twhin_core.training import checkpoint
from twhin_core.training.train import train

TABLES = {"user": 40, "tweet": 30}


def weights(root: Path | str) -> dict[str, torch.Tensor]:
    newest = checkpoint.newest(str(root))
    assert newest is not None
    return {table: newest.read_rows(table, 0, rows) for table, rows in TABLES.items()}


def write_config(config: Config, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(config_file.to_yaml(config))
    return path


def kill_after_first_checkpoint(path: Path, root: Path) -> None:
    """Starts `twhin train` and kills it as soon as a checkpoint is whole."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*COMMAND, "train", str(path), "--run-root", str(root)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while checkpoint.newest(str(root)) is None:
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_the_same(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(training={"num_epochs": 300, "checkpoint_every_n": 20, "checkpoint_max_to_keep": 3})
    path = write_config(config, tmp_path)
    for root in ("disturbed", "undisturbed"):
        prepare(config, str(tmp_path / root))
    kill_after_first_checkpoint(path, tmp_path / "disturbed")
    killed = checkpoint.newest(str(tmp_path / "disturbed"))
    assert killed is not None

    again = twhin("train", path, "--run-root", tmp_path / "disturbed")
    assert again.returncode == 0, again.stderr
    assert f"continues after step {killed.step}," in again.stderr
    whole = twhin("train", path, "--run-root", tmp_path / "undisturbed")
    assert whole.returncode == 0, whole.stderr
    disturbed, undisturbed = weights(tmp_path / "disturbed"), weights(tmp_path / "undisturbed")
    for table in TABLES:
        assert torch.equal(disturbed[table], undisturbed[table])
    logs = [(tmp_path / root / "training/metrics.jsonl").read_text() for root in ("disturbed", "undisturbed")]
    steps = [[json.loads(line)["step"] for line in log.splitlines()] for log in logs]
    assert steps[0] == steps[1], "no step is logged twice or left out"


def train_and_read(config: Config, root: str, steps: int | None = None) -> None:
    """Trains; with `steps`, as a run that is cut off after them."""
    if steps is not None:
        config = config.model_copy(update={"training": config.training.model_copy(update={"num_train_steps": steps})})
        prepare(config, root)
    train(config, root)


def cut_off(config: Config, root: Path, steps: int, world_size: int) -> None:
    """Leaves a run under `root` that was cut off after `steps` steps of `world_size` ranks."""
    run_ranks(world_size, train_and_read, config, str(root), steps)
    (root / "config.yaml").write_text(config_file.to_yaml(config))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(
    before: int, after: int, small_config: SmallConfig, tmp_path: Path
) -> None:
    """Without negatives drawn at random, whose draws depend on the ranks, nothing else may."""

    # A step takes 64 edges in all: 64 a rank, or 32 for each of two.
    def sized(ranks: int) -> Config:
        return small_config(
            training={"num_epochs": 2, "checkpoint_every_n": 1000},
            train_data={"per_replica_batch_size": 64 // ranks, "global_negatives": 4, "chunk_size": 64},
        )

    cut_off(sized(before), tmp_path / "run", 5, before)
    (tmp_path / "run/config.yaml").write_text(config_file.to_yaml(sized(after)))
    at_cut = weights(tmp_path / "run")
    run_ranks(after, train_and_read, sized(after), str(tmp_path / "run"))
    newest = checkpoint.newest(str(tmp_path / "run"))
    assert newest is not None
    steps_per_epoch = -(
        -json.loads((tmp_path / "run/graph/manifest.json").read_text())["splits"]["train"]["edges"] // 64
    )
    assert newest.step == 2 * steps_per_epoch
    assert not torch.equal(weights(tmp_path / "run")["user"], at_cut["user"])
