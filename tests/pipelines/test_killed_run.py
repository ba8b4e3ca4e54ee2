"""SIGKILL to `twhin run` in any of its stages: nothing works on, and the next run ends as an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.command_line import COMMAND, ROOT, twhin
from tests.conftest import SmallConfig
from tests.training.same_result import assert_same_result
from twhin_core import lease
from twhin_core.config import file as config_file

SECONDS = 180


def members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, of = rest.split()[:4]
        if int(of) == session and state not in "ZX":
            found.append(int(name.split()[0]))
    return found


def start(path: Path, root: Path) -> subprocess.Popen[bytes]:
    """`twhin run` in a session of its own, which all of its children belong to."""
    return subprocess.Popen(
        [*COMMAND, "run", str(path), "--run-root", str(root)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for(stage: str, root: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits until a process of this run holds the stage's lease."""
    file, deadline = root / lease.FOLDER / stage, time.monotonic() + SECONDS
    while not (file.exists() and any(f'"pid": "{pid}"' in file.read_text() for pid in members(process.pid))):
        assert process.poll() is None, f"it ended before {stage}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill(stage: str, delay: float, path: Path, root: Path) -> None:
    process = start(path, root)
    try:
        wait_for(stage, root, process)
        time.sleep(delay)
        assert len(members(process.pid)) > 1, "it has no child that could live on"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while left := members(process.pid):
            assert time.monotonic() < deadline, f"after {stage}, these live on: {left}"
            time.sleep(0.01)
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_leaves_no_process_and_the_next_ends_as_an_undisturbed_one(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    config = small_config(training={"num_epochs": 60, "checkpoint_every_n": 20, "checkpoint_max_to_keep": 2})
    path, disturbed, undisturbed = (tmp_path / name for name in ("config.yaml", "disturbed", "undisturbed"))
    path.write_text(config_file.to_yaml(config))
    rng = random.Random(0)
    for stage in ("prepare", "train", "train", "evaluate", "export"):
        kill(stage, rng.uniform(0, 0.5), path, disturbed)
    for root in (disturbed, undisturbed):  # the next run starts at once
        ran = twhin("run", path, "--run-root", root)
        assert ran.returncode == 0, ran.stderr
    assert_same_result(str(disturbed), str(undisturbed))
    for table in ("user", "tweet"):
        found, expected = (pq.read_table(root / "embeddings" / table) for root in (disturbed, undisturbed))
        assert found.equals(expected)
        assert found.num_rows > 0
