"""`twhin serve-edges` and `twhin train --readers` as a user starts them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import COMMAND, ROOT, assert_refused, twhin
from tests.conftest import SmallConfig
from twhin_core import heartbeat
from twhin_core.checkpoints import checkpoint
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

TOKEN = "open-sesame"


@contextlib.contextmanager
def reader(
    command: str, config: Path, root: Path, *arguments: str, **variables: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A reader's address and process."""
    process = subprocess.Popen(
        [*COMMAND, *command.split(), str(config), "--run-root", str(root), *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **variables}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "edges at" in line)
        assert TOKEN not in line
        yield line.split()[-1], process
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture
def graph(request: pytest.FixtureRequest, small_config: SmallConfig, tmp_path: Path) -> tuple[Path, Path]:
    """A config of so many epochs, three if nothing is said, and a root where it is prepared."""
    config = small_config(
        training={
            "num_epochs": getattr(request, "param", 3),
            "readers_timeout_in_s": 5,
            "checkpoint_every_n": 5,
            "checkpoint_max_to_keep": 2,
        }
    )
    path, root = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(config_file.to_yaml(config))
    prepare(config, str(root))
    return path, root


def losses(root: Path) -> list[float]:
    lines = map(json.loads, (root / "training/metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_training_from_readers_is_training_alone(graph: tuple[Path, Path], tmp_path: Path) -> None:
    """One reader is started by its own command, one by that of training and the role that its environment gives it."""
    config, root = graph
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    variables = {"TWHIN_READER_TOKEN_FILE": str(secret)}
    role = {"TWHIN_TASK_TYPE": "reader", "TWHIN_BIND": "127.0.0.1:0", "TWHIN_READER_TOKEN": TOKEN}
    with (
        reader("serve-edges", config, root, "--bind", "127.0.0.1:0", **variables) as (first, process),
        reader("train", config, root, **role) as (second, _),
    ):
        with pytest.raises(UserError, match=f"the reader {first} refuses this process: the token is missing"):
            train(config_file.load(str(config)), str(tmp_path / "run"), [first, second])
        ran = twhin("train", config, "--run-root", root, **variables, TWHIN_READERS=f"{first},{second}")
        assert ran.returncode == 0, ran.stderr
        assert TOKEN not in ran.stderr
        process.terminate()
        assert process.wait(30) == 0
    from_readers = losses(root)
    alone = tmp_path / "alone"
    prepare(config_file.load(str(config)), str(alone))
    train(config_file.load(str(config)), str(alone))
    assert len(from_readers) == 24
    assert losses(alone) == pytest.approx(from_readers, rel=1e-6)


@pytest.mark.parametrize("command", ["train", "launch train"])
def test_in_vertex_pool_of_readers_the_command_that_trains_reads(command: str, graph: tuple[Path, Path]) -> None:
    cluster = {"workerpool0": ["127.0.0.1:2222"], "workerpool2": ["127.0.0.1:2223"]}
    spec = json.dumps({"cluster": cluster, "task": {"type": "workerpool2", "index": 0}})
    with reader(command, *graph, CLUSTER_SPEC=spec, TWHIN_BIND="127.0.0.1:0"):
        pass


def test_a_reader_whose_task_is_gone_ends_without_being_restarted(
    graph: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.2)
    role = {"TWHIN_TASK_TYPE": "reader", "TWHIN_BIND": "127.0.0.1:0", "TWHIN_ABANDONED_AFTER": "3"}
    task = heartbeat.beating(str(graph[1]))
    task.__enter__()
    with reader("launch train", *graph, **role) as (_, process):
        task.__exit__(None, None, None)
        assert process.wait(60) == 0  # Kubernetes starts a reader that failed again


@pytest.mark.slow
@pytest.mark.parametrize("graph", [20_000], indirect=True)
def test_without_readers_training_ends_so_that_a_retry_goes_on(graph: tuple[Path, Path]) -> None:
    config, root = graph
    with reader("serve-edges", config, root, "--bind", "127.0.0.1:0") as (address, process):
        training = subprocess.Popen(
            [*COMMAND, "train", str(config), "--run-root", str(root), "--readers", address],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while checkpoint.newest(str(root)) is None:
            assert training.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        _, errors = training.communicate(timeout=60)
    ran = subprocess.CompletedProcess(training.args, training.returncode, "", errors)
    assert_refused(ran, f"none of the readers {address} has answered for 5 s", "run it again", exit_code=75)
    newest = checkpoint.newest(str(root))
    assert newest is not None


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--bind", "0.0.0.0:0"], {}, "--bind: 0.0.0.0:0 can be reached from other machines; set TWHIN_READER_TOKEN"),
        (["--bind", "nowhere"], {}, "--bind: 'nowhere' is not HOST:PORT"),
        ([], {"TWHIN_READER_TLS_CERT": "cert.pem"}, "cannot be read"),
        ([], {"TWHIN_READER_TOKEN": "two words"}, "TWHIN_READER_TOKEN: must be printable ASCII"),
    ],
)
def test_a_reader_that_cannot_be(
    arguments: list[str], variables: dict[str, str], message: str, graph: tuple[Path, Path]
) -> None:
    config, root = graph
    assert_refused(twhin("serve-edges", config, "--run-root", root, *arguments, **variables), message)
