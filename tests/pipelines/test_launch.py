"""Two machines train together, however they were told of each other, and whatever becomes of one of them."""

from __future__ import annotations

import inspect
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from torch.distributed.elastic.agent.server.api import SimpleElasticAgent

from tests.conftest import SmallConfig
from tests.nodes import SECONDS, Node, Platform, ends, kill, kubeflow_trainer, two_nodes, vertex
from tests.training.same_result import assert_same_result
from twhin_core.checkpoints import checkpoint
from twhin_core.config import file as config_file
from twhin_core.distributed import launch
from twhin_core.stages.prepare import prepare


def training(
    platform: Platform, config: Path, root: Path, preloaded: bool = True
) -> AbstractContextManager[list[Node]]:
    return two_nodes(platform, "launch", "train", config, "--run-root", root, preloaded=preloaded)


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
        with training(platform, config, undisturbed) as started:
            for code, said in ends(started):
                assert code == 0, said
    root = tmp_path / "disturbed"
    prepare(config_file.load(str(config)), str(root))
    with training(platform, config, root) as started:
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
    with training(platform, config, root) as started:
        for code, said in ends(started):
            assert code == 0, said
            assert "Traceback" not in said
    assert_same_result(str(root), str(undisturbed))
    end = checkpoint.newest(str(root))
    assert end is not None
    assert interrupted.step < end.step


def test_a_mistake_of_the_users_is_not_to_be_tried_again(config: Path, tmp_path: Path) -> None:
    with training(kubeflow_trainer, config, tmp_path / "nothing-prepared") as started:
        for code, said in ends(started):
            assert code == 2, said
            assert "run `twhin prepare` first" in said


@pytest.mark.slow
def test_sigterm_is_passed_on_and_asks_for_another_try(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(training={"num_epochs": 5000, "checkpoint_every_n": 100_000, "train_log_every_n": 10})
    path, root = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(config_file.to_yaml(config))
    prepare(config, str(root))
    with training(kubeflow_trainer, path, root, preloaded=False) as started:
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


def test_an_agent_that_leaves_first_is_no_failure_of_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.AGENT_LOG, "filters", [launch._is_no_exit_barrier_error])
    monkeypatch.setattr(launch.AGENT_LOG, "propagate", True)
    said = "Error waiting on exit barrier"
    assert said in inspect.getsource(SimpleElasticAgent._exit_barrier)
    launch.AGENT_LOG.error("%s. Elapsed: %s seconds", said, 1.0)
    launch.AGENT_LOG.error("something else")
    assert [record.getMessage() for record in caplog.records if record.name == launch.AGENT_LOG.name] == [
        "something else"
    ]
