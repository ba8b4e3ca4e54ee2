"""The whole DAG on an object store, a tenth of whose requests go wrong, does what it does on a local disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command_line import assert_refused, twhin
from tests.fault_proxy import KINDS, FaultProxy
from tests.object_store import GS_FIRST, environment, files_at, reach, serve_bucket
from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import Position
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.checkpoints.writer import CheckpointWriter, State
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.follow import follow
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.stores import failures

SMALL = [
    "prepare.generate={users: 150, tweets: 200, communities: 5, edges_per_user: 20}",
    "training.num_epochs=3",
    "training.checkpoint_every_n=4",
    "training.checkpoint_max_to_keep=2",
    "train_data.per_replica_batch_size=500",
    "train_data.global_negatives=20",
    "evaluation.gates={test.all.mrr: {min: 0.0}}",
]


@pytest.fixture(scope="module", params=GS_FIRST)
def server(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1, store=request.param) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def config() -> Config:
    return config_file.load("configs/quickstart.yaml", SMALL)


@pytest.fixture(scope="module")
def local(config: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The root of the run on a local disk."""
    root = str(tmp_path_factory.mktemp("local") / "run")
    for stage in (prepare, train, evaluate, export):
        stage(config, root)
    return root


def results(root: str) -> dict[str, Any]:
    """Everything that a run comes to, times and places aside."""
    found: dict[str, Any] = {
        path: storage.read_json(storage.join(root, path))
        for path in ("graph/manifest.json", "evaluation/metrics.json", "embeddings/manifest.json", checkpoint.FINISHED)
    }
    del found["graph/manifest.json"]["raw_files"]
    found["steps"] = [entry.step for entry in checkpoint.complete(root)]
    lines = [json.loads(line) for line in storage.read_text(storage.join(root, "training/metrics.jsonl")).splitlines()]
    found["losses"] = [line[name] for line in lines for name in ("loss", "validation_loss") if name in line]
    return found


def weights(root: str) -> dict[str, torch.Tensor]:
    newest = checkpoint.newest(root)
    assert newest is not None
    sizes = {"user": 150, "tweet": 200}
    tables = {name: newest.rows(name).read(0, rows) for name, rows in sizes.items()}
    return {**tables, "relations": StoredTensor(newest.url, "scorer.operator.translation").read_whole()}


def assert_same(root: str, local: str, server: FaultProxy) -> None:
    assert results(root) == results(local)
    expected = weights(local)
    for name, tensor in weights(root).items():
        assert torch.equal(tensor, expected[name]), name
    # The very files that the manifests list, and none besides.
    files = files_at(server)
    key = root.partition("://")[2]
    for folder in ("graph", "embeddings", "checkpoints"):
        there = {path.removeprefix(key) for path in files.find(f"{key}/{folder}")}
        here = {str(path).removeprefix(local) for path in Path(local, folder).rglob("*") if path.is_file()}
        assert there == here


def test_every_stage_comes_to_the_same(
    config: Config, local: str, server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = f"{reach(server, monkeypatch)}/stages", server.requests
    for stage in (prepare, train, evaluate, export):
        stage(config, root)
    assert server.requests - before > 200
    assert set(server.faults) == set(KINDS)
    assert_same(root, local, server)
    for stage in (prepare, train, evaluate, export):
        stage(config, root)  # finds all done
    follow(config, root)
    assert storage.list_folders(storage.join(root, "evaluation")) == [str(step) for step in results(root)["steps"]]
    assert_same(root, local, server)


def test_a_store_that_is_down_for_a_while_costs_only_the_checkpoints_of_that_while(
    config: Config, local: str, server: FaultProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root, save = f"{reach(server, monkeypatch)}/down", CheckpointWriter.save
    prepare(config, root)

    def down_for_the_second(writer: CheckpointWriter, state: State, position: Position) -> None:
        writer.wait()
        server.is_down = position.step == 8
        monkeypatch.setattr(failures, "RETRY_TIMEOUT", 0.5 if server.is_down else 120.0)
        save(writer, state, position)

    monkeypatch.setattr(CheckpointWriter, "save", down_for_the_second)
    train(config, root)
    assert f"the checkpoint of step 8 could not be written: {server.store}://bucket" in caplog.text
    assert [entry.step for entry in checkpoint.complete(root)] == [12, 15]
    expected = weights(local)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(root).items())
    lines = storage.read_text(storage.join(root, "training/metrics.jsonl"))
    assert lines.count("\n") == storage.read_text(storage.join(local, "training/metrics.jsonl")).count("\n")


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gs"], indirect=True)
def test_the_command_runs_the_dag_and_refuses_another_config(local: str, server: FaultProxy) -> None:
    root, where = f"{server.store}://bucket/dag", environment(server)
    options = [option for override in SMALL for option in ("--set", override)]
    before = server.faults.total()
    ran = twhin("run", "configs/quickstart.yaml", "--run-root", root, *options, **where)
    assert ran.returncode == 0, ran.stderr
    assert f"{root}/embeddings/manifest.json" in ran.stdout
    assert "Traceback" not in ran.stderr
    assert server.faults.total() - before > 10
    described = twhin("describe", root, **where)
    assert described.returncode == 0, described.stderr
    assert described.stdout == twhin("describe", local).stdout
    more = [*options, "--set", "training.seed=1"]
    again = twhin("run", "configs/quickstart.yaml", "--run-root", root, *more, **where)
    assert_refused(again, "made with another config", "training.seed")
