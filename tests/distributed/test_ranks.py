"""If a rank dies, the others stop soon and the reason is shown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import COMMAND, ROOT
from tests.conftest import SmallConfig
from twhin_core.checkpoints import checkpoint
from twhin_core.config import file as config_file
from twhin_core.stages.prepare import prepare

SECONDS = 60
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture
def endless(small_config: SmallConfig, tmp_path: Path) -> tuple[Path, Path]:
    """The config's file and the root of a prepared run that goes on for hours."""
    config = small_config(training={"num_epochs": 10**6, "checkpoint_every_n": 10, "checkpoint_max_to_keep": 1})
    prepare(config, str(tmp_path / "run"))
    path = tmp_path / "config.yaml"
    path.write_text(config_file.to_yaml(config))
    return path, tmp_path / "run"


@pytest.fixture
def pair(endless: tuple[Path, Path]) -> Iterator[list[subprocess.Popen[str]]]:
    """Two ranks with nothing but each other: no launcher watches over them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [*COMMAND, "train", str(endless[0]), "--run-root", str(endless[1])],
            cwd=ROOT,
            env={**ENVIRONMENT, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_other(
    victim: int, pair: list[subprocess.Popen[str]], endless: tuple[Path, Path]
) -> None:
    deadline = time.monotonic() + 120
    while checkpoint.newest(str(endless[1])) is None:
        assert all(process.poll() is None for process in pair)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pair[victim].send_signal(signal.SIGKILL)
    _, shown = pair[1 - victim].communicate(timeout=SECONDS)
    assert pair[1 - victim].returncode == 1
    assert shown.splitlines()[-1].startswith(f"error: rank {1 - victim} stops because another rank has failed"), shown
    assert "Traceback" not in shown
    assert "Warning" not in shown, "nothing that a user cannot fix"
    assert "is_fx_tracing" not in shown


def test_the_traceback_of_the_first_failed_rank_is_shown(endless: tuple[Path, Path]) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [*torchrun, "-m", "tests.training.failing_rank", *map(str, endless)],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS + 30,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "RuntimeError: the third step was the last of rank 1" in ran.stderr
