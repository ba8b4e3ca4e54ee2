"""Two machines, stood in for by two process groups with the environment that a platform gives each, train together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command_line import COMMAND, ROOT
from tests.conftest import SmallConfig
from tests.training.ends import assert_same_end
from twhin_core import config_file
from twhin_core.graph.prepare import prepare
from twhin_core.training import checkpoint

SECONDS = 150
Platform = Callable[[int, int], dict[str, str]]


def kubeflow_trainer(index: int, port: int) -> dict[str, str]:
    return {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": str(index),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }


def vertex(index: int, port: int) -> dict[str, str]:
    cluster = {"workerpool0": [f"127.0.0.1:{port}"], "workerpool1": ["127.0.0.2:2222"]}
    spec = {"cluster": cluster, "environment": "cloud", "task": {"type": f"workerpool{index}", "index": 0}}
    return {
        "CLUSTER_SPEC": json.dumps(spec),
        "RANK": str(index),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def nodes(platform: Platform, config: Path, root: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """The two nodes of a run; all of their processes are ended with the block."""
    port = free_port()
    started = [
        subprocess.Popen(
            [*COMMAND, "launch", "train", str(config), "--run-root", str(root)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
                 **platform(index, port)},
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        yield started
    finally:
        for node in started:
            kill(node)


def kill(node: subprocess.Popen[str]) -> None:
    """SIGKILL to every process of a node, as when its machine is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    if node.poll() is None:
        node.wait()


def ends(started: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    deadline = time.monotonic() + SECONDS
    said = [node.communicate(timeout=deadline - time.monotonic())[1] for node in started]
    return [(node.returncode, text) for node, text in zip(started, said, strict=True)]


@pytest.fixture
def config(small_config: SmallConfig, tmp_path: Path) -> Path:
    """A config's file."""
    path = tmp_path / "config.yaml"
    path.write_text(config_file.to_yaml(small_config(training={"num_epochs": 40, "checkpoint_every_n": 10})))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run root; what two nodes come to undisturbed is put there by the first test that asks for it."""
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.mark.parametrize("platform", [kubeflow_trainer, vertex])
def test_a_node_that_is_lost_and_comes_back_changes_nothing(
    config: Path, undisturbed: Path, platform: Platform, tmp_path: Path
) -> None:
    if not undisturbed.exists():
        prepare(config_file.load(str(config)), str(undisturbed))
        with nodes(platform, config, undisturbed) as started:
            for code, said in ends(started):
                assert code == 0, said
    root = tmp_path / "disturbed"
    prepare(config_file.load(str(config)), str(root))
    with nodes(platform, config, root) as started:
        deadline = time.monotonic() + SECONDS
        while not checkpoint.complete(str(root)):
            assert time.monotonic() < deadline
            assert all(node.poll() is None for node in started)
            time.sleep(0.01)
        kill(started[1])
        ((code, said),) = ends(started[:1])
        assert code == 1, said  # which asks the platform for another try
        assert "error: " in said.splitlines()[-1]
    interrupted = checkpoint.newest(str(root))
    assert interrupted is not None
    with nodes(platform, config, root) as started:
        for code, said in ends(started):
            assert code == 0, said
            assert "Traceback" not in said
    assert_same_end(str(root), str(undisturbed))
    end = checkpoint.newest(str(root))
    assert end is not None
    assert interrupted.step < end.step


def test_a_mistake_of_the_users_is_not_to_be_tried_again(config: Path, tmp_path: Path) -> None:
    with nodes(kubeflow_trainer, config, tmp_path / "nothing-prepared") as started:
        for code, said in ends(started):
            assert code == 2, said
            assert "run `twhin prepare` first" in said


def test_sigterm_is_passed_on_and_asks_for_another_try(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(training={"num_epochs": 5000, "checkpoint_every_n": 100_000, "train_log_every_n": 10})
    path, root = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(config_file.to_yaml(config))
    prepare(config, str(root))
    with nodes(kubeflow_trainer, path, root) as started:
        deadline = time.monotonic() + SECONDS
        while not list(root.glob("training/events*")):  # there since the first line is logged
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for node in started:
            node.send_signal(signal.SIGTERM)
        assert [code for code, _ in ends(started)] == [75, 75]
    newest = checkpoint.newest(str(root))
    assert newest is not None
    assert newest.step > 0
