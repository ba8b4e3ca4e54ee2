"""Checkpoints are written while training continues, and a failed one does no harm."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.command_line import COMMAND, ROOT
from tests.conftest import SmallConfig
from tests.full_disk import small_files
from tests.ranks import run_ranks
from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import Position
from twhin_core.checkpoints.description import ModelDescription
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.checkpoints.writer import CheckpointWriter
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.errors import Diverged
from twhin_core.stages.prepare import prepare

MODEL = ModelDescription.model_construct(
    tables={}, dim=4, relations=[], operators=[], comparator="dot", reciprocal=False, optimizers={}
)


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    with process_group() as ranks:
        yield ranks


class Gate:
    """Blocks the write of the marker until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        write_text = storage.write_text

        def gated(url: str, text: str) -> None:
            if url.endswith(checkpoint.MARKER):
                self.reached.set()
                assert self.opened.wait(60)
            write_text(url, text)

        monkeypatch.setattr(storage, "write_text", gated)


def steps(root: Path) -> list[int]:
    return [entry.step for entry in checkpoint.complete(str(root))]


def test_the_state_may_change_at_once_and_the_marker_comes_last(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, weight = Gate(monkeypatch), torch.arange(12.0).view(3, 4)
    with CheckpointWriter(str(tmp_path), MODEL, None, ranks) as writer:
        writer.save({"weight": weight}, Position(step=1))
        weight.fill_(-1)  # the next step
        assert gate.reached.wait(60)
        assert (tmp_path / "checkpoints/1/.metadata").exists()
        assert steps(tmp_path) == []
        gate.opened.set()
    assert steps(tmp_path) == [1]
    assert StoredTensor(str(tmp_path / "checkpoints/1"), "weight").read(0, 3).tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


def test_the_next_checkpoint_waits_and_older_ones_are_removed_once_it_is_complete(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CheckpointWriter(str(tmp_path), MODEL, 1, ranks) as writer:
        writer.save({"weight": torch.zeros(2)}, Position(step=1))
        assert writer.wait()
        gate = Gate(monkeypatch)
        writer.save({"weight": torch.zeros(2)}, Position(step=2))
        assert gate.reached.wait(60)
        assert steps(tmp_path) == [1], "the only one to keep is kept until its successor is whole"
        opener = threading.Timer(0.2, gate.opened.set)
        opener.start()
        writer.save({"weight": torch.zeros(2)}, Position(step=3))
        assert gate.opened.is_set()
        assert steps(tmp_path)[0] == 2
    assert steps(tmp_path) == [3]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_without_a_copy_a_checkpoint_is_complete_before_training_goes_on(ranks: Ranks, tmp_path: Path) -> None:
    weight = torch.arange(12.0).view(3, 4)
    with CheckpointWriter(str(tmp_path), MODEL, None, ranks, copies=False) as writer:
        writer.save({"weight": weight}, Position(step=1))
        assert steps(tmp_path) == [1]
        weight.fill_(-1)
        assert writer.wait()
        weight[0, 0] = torch.nan
        writer.save({"weight": weight}, Position(step=2))
        with pytest.raises(Diverged, match="step 2 made values in weight that are not finite"):
            writer.wait()
    assert steps(tmp_path) == [1]
    stored = StoredTensor(str(tmp_path / "checkpoints/1"), "weight").read(0, 3)
    assert stored.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_leftovers_of_a_killed_run_are_removed(ranks: Ranks, tmp_path: Path) -> None:
    with CheckpointWriter(str(tmp_path), MODEL, None, ranks) as writer:
        writer.save({"weight": torch.zeros(2)}, Position(step=1))
    (tmp_path / "checkpoints/2").mkdir()
    (tmp_path / "checkpoints/2/__0_0.distcp").write_bytes(b"half of it")
    with CheckpointWriter(str(tmp_path), MODEL, None, ranks):
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def save_on_a_full_disk(root: str, full_rank: int) -> tuple[bool, bool]:
    """Writes two checkpoints; one rank's disk is full during the first. Returns whether each is complete."""
    with process_group() as ranks, CheckpointWriter(root, MODEL, None, ranks) as writer:
        state = {"weight": torch.zeros(1000, 4)} if ranks.is_first else {"other": torch.zeros(1000, 4)}
        with small_files(4096) if ranks.rank == full_rank else contextlib.nullcontext():
            writer.save(state, Position(step=1))
            first = writer.wait()
        dist.barrier()
        writer.save(state, Position(step=2))
        return first, writer.wait()


@pytest.mark.parametrize("full_rank", [0, 1])
def test_a_checkpoint_fails_if_one_rank_cannot_write(full_rank: int, tmp_path: Path) -> None:
    assert run_ranks(2, save_on_a_full_disk, str(tmp_path), full_rank) == [(False, True)] * 2
    assert steps(tmp_path) == [2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"], "nothing is left of the first"


def write_config(config: Config, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(config_file.to_yaml(config))
    return path


def start(path: Path, root: Path) -> subprocess.Popen[str]:
    """`twhin train`, once its first checkpoint is complete."""
    process = subprocess.Popen(
        [*COMMAND, "train", str(path), "--run-root", str(root)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while checkpoint.newest(str(root)) is None:
        assert process.poll() is None, "training ended before its disk was full"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def fill_disk(process: subprocess.Popen[str], size: int) -> None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_temporarily_full_disk_only_costs_the_checkpoints_of_that_time(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    config = small_config(training={"num_epochs": 25, "checkpoint_every_n": 10, "train_log_every_n": 10})
    root = tmp_path / "run"
    prepare(config, str(root))
    process = start(write_config(config, tmp_path), root)
    fill_disk(process, 1000)
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if "could not be written" in line and "checkpoint" in line:
            fill_disk(process, resource.RLIM_INFINITY)
    assert process.wait() == 0, lines
    failures = [re.search(r"checkpoint of step (\d+) could not be written: (.*)", line) for line in lines]
    failed = {int(found[1]): found[2] for found in failures if found}
    assert failed
    assert set(failed.values()) == {"[Errno 27] File too large"}
    assert not any("Traceback" in line for line in lines)
    # One checkpoint per interval and one of the last step, except for those that failed.
    last = json.loads((root / "training/finished.json").read_text())["step"]
    assert steps(root) == sorted({*range(10, last + 1, 10), last} - set(failed))
    assert sorted(int(path.name) for path in (root / "checkpoints").iterdir()) == steps(root)
    logged = [json.loads(line)["step"] for line in (root / "training/metrics.jsonl").read_text().splitlines()]
    assert sorted(set(logged)) == sorted({*range(10, last + 1, 10), last}), "no line is lost"


def test_a_failed_last_checkpoint_ends_the_run_with_one_line(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(training={"num_epochs": 2000, "checkpoint_every_n": 20, "train_log_every_n": 1000})
    root = tmp_path / "run"
    prepare(config, str(root))
    process = start(write_config(config, tmp_path), root)
    fill_disk(process, 1000)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert re.match(r"error: the checkpoint of step \d+, the last, could not be written", errors.splitlines()[-1])
    assert "Traceback" not in errors
    newest: Any = checkpoint.newest(str(root))
    assert newest.rows("user").read(0, 40).isfinite().all()
    assert sorted(int(path.name) for path in (root / "checkpoints").iterdir()) == steps(root)
