"""SIGKILL at random moments, while checkpoints are written too, changes nothing of what comes out."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import SmallConfig
from tests.preloaded import CONTEXT
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.config import Config
from twhin_core.stages.prepare import prepare


def train_to_the_end(config: Config, root: str) -> None:
    from twhin_core.stages.train import train

    torch.set_num_threads(1)  # two would wait for each other on the cores of other tests
    train(config, root)


def start(config: Config, root: Path) -> multiprocessing.context.ForkServerProcess:
    process = CONTEXT.Process(target=train_to_the_end, args=(config, str(root)), daemon=True)
    process.start()
    return process


def is_being_written(root: Path) -> bool:
    """Whether the newest folder is not a checkpoint yet."""
    folders = sorted((root / "checkpoints").glob("*"), key=lambda path: int(path.name))
    return bool(folders) and not (folders[-1] / checkpoint.MARKER).exists()


def kill(config: Config, root: Path, during_a_write: bool, rng: random.Random) -> bool:
    """Starts training and kills it: while a checkpoint is written, or at any moment. Whether a write was cut off."""
    at_start = checkpoint.newest(str(root))
    process = start(config, root)
    deadline = time.monotonic() + 60
    # Not before it has got on, or the last kill would be as the first.
    while (newest := checkpoint.newest(str(root))) is None or newest == at_start:
        assert process.is_alive(), "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    if during_a_write:
        while not is_being_written(root):
            assert process.is_alive(), "training ended before it could be killed"
        time.sleep(rng.uniform(0, 0.004))
    else:
        time.sleep(rng.uniform(0, 0.15))
    process.kill()
    process.join()
    assert process.exitcode == -9
    return is_being_written(root)


def final_state(root: Path) -> tuple[object, dict[str, torch.Tensor], list[int]]:
    newest = checkpoint.newest(str(root))
    assert newest is not None
    names = {name: f"tables.embeddings.{name}.weight" for name in ("user", "tweet")}
    names["relations"] = "scorer.operator.translation"
    state = {name: StoredTensor(newest.url, stored).read_whole() for name, stored in names.items()}
    logged = [json.loads(line)["step"] for line in (root / "training/metrics.jsonl").read_text().splitlines()]
    return newest.marker, state, logged


def finish(config: Config, root: Path) -> None:
    process = start(config, root)
    process.join(120)
    assert process.exitcode == 0
    assert (root / FINISHED).exists()


@pytest.mark.parametrize("kills", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_ends_as_the_undisturbed_one(
    kills: int, small_config: SmallConfig, tmp_path: Path
) -> None:
    """Mid-epoch (an epoch has 8 steps) and shuffled, one rank, bit for bit."""
    config = small_config(
        training={
            "num_epochs": 25 * kills,
            "checkpoint_every_n": 7,
            "checkpoint_max_to_keep": 2,
            "train_log_every_n": 10,
            "eval_log_every_n": 10_000,
        }
    )
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    for root in (disturbed, undisturbed):
        prepare(config, str(root))
    rng = random.Random(kills)
    cut_off = [kill(config, disturbed, number % 3 != 2, rng) for number in range(kills)]
    assert any(cut_off), "no kill met a write"
    finish(config, disturbed)
    finish(config, undisturbed)
    (marker, state, logged), (other_marker, other_state, other_logged) = (
        final_state(root) for root in (disturbed, undisturbed)
    )
    assert marker == other_marker
    for name, tensor in state.items():
        assert torch.equal(tensor, other_state[name]), name
    assert logged == other_logged, "no step is logged twice or left out"
    assert not is_being_written(disturbed)
