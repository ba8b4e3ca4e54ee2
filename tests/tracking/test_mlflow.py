"""Runs of all stages, tracked by a real MLflow server."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.tracking import mlflow_server
from twhin_core.checksum import unseal_lines
from twhin_core.errors import Preempted, UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.tuning.page import tried
from twhin_core.tuning.study import check_installed
from twhin_core.tuning.tune import tune

pytest.importorskip("flask_cors", reason="requirements/dev.txt installs what the server needs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server.serve(tmp_path_factory.mktemp("mlflow"), mlflow_server.free_port()) as url:
        yield url


def client(url: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(url)


def the_run(url: str, experiment: str) -> Any:
    """The only run of an experiment."""
    found = client(url).get_experiment_by_name(experiment)
    (run,) = client(url).search_runs([found.experiment_id])
    return run


def lines(root: Path) -> list[dict[str, Any]]:
    path = root / "training/metrics.jsonl"
    return unseal_lines(path.read_bytes(), str(path))


def curve(url: str, run: Any, name: str) -> list[tuple[int, float]]:
    """(step, value) in the order in which they were sent."""
    return [(point.step, point.value) for point in client(url).get_metric_history(run.info.run_id, name)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_are_runs_of_one_experiment_with_their_figures(
    server: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    check_installed()
    metric = "validation.all.mrr_rhs"
    space = {"model.temperature": {"log": [0.1, 10.0]}}
    config = small_config(
        tracking={"mlflow": server, "experiment": "sweep"},
        sweep={"space": space, "metric": metric, "trials": 3, "looks": 2, "stopping": "asha"},
    )
    found = tune(config, str(tmp_path / "first"))
    experiment = client(server).get_experiment_by_name("sweep")
    runs = {run.info.run_name: run for run in client(server).search_runs([experiment.experiment_id])}
    assert set(runs) == {"prepared", "first/trials/1", "first/trials/2", "first/trials/3"}
    for trial in tried(found.study):
        run = runs[f"first/trials/{trial.number}"]
        assert run.info.status == {"complete": "FINISHED", "stopped": "KILLED"}[trial.state]
        assert run.data.metrics[metric] == trial.value
        assert float(run.data.params["model.temperature"]) == trial.values["model.temperature"]
        assert "training.loss" in run.data.metrics


@pytest.mark.slow
def test_all_stages_are_one_tracked_run(server: str, small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(tracking={"mlflow": server, "experiment": "whole"}, evaluation={"bootstrap": 20})
    root = tmp_path / "run"
    for stage in (prepare, train, evaluate, export):
        stage(config, str(root))  # type: ignore[operator]
    run = the_run(server, "whole")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.tags["twhin.run_root"] == str(root)
    assert run.data.tags["twhin.revision"]

    assert run.data.params["model.loss"] == "softmax"
    assert run.data.params["training.num_epochs"] == "2"
    assert run.data.params["model.relations.1.name"] == "fav"
    assert run.data.params["evaluation.hits_at"] == json.dumps(config.evaluation.hits_at)

    for name in ("loss", "validation_loss", "edges_per_s"):
        expected = [(line["step"], line[name]) for line in lines(root) if name in line]
        assert expected
        assert curve(server, run, f"training.{name}") == expected

    metrics = json.loads((root / "evaluation/metrics.json").read_text())
    assert run.data.metrics["test.all.mrr"] == metrics["test"]["all"]["mrr"]
    assert run.data.metrics["test.fav.recall_at_20"] == metrics["test"]["fav"]["recall@20"]
    assert [step for step, _ in curve(server, run, "test.all.mrr")] == [metrics["checkpoint"]]

    artifacts = {file.path: file.file_size for file in client(server).list_artifacts(run.info.run_id)}
    places = {
        "config.yaml": "config.yaml",
        "graph-manifest.json": "graph/manifest.json",
        "metrics.json": "evaluation/metrics.json",
        "gates.json": "evaluation/gates.json",
        "report.html": "evaluation/report.html",
        "export-manifest.json": "embeddings/manifest.json",
    }
    assert artifacts == {name: (root / path).stat().st_size for name, path in places.items()}


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_tracked_run(
    server: str, small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twhin_core.distributed.preemption import Preemption

    config = small_config(tracking={"mlflow": server, "experiment": "resumed"})
    root = tmp_path / "run"
    prepare(config, str(root))
    asked = iter(range(100))
    with monkeypatch.context() as patched:
        patched.setattr(Preemption, "agreed", lambda _: next(asked) == 5)
        with pytest.raises(Preempted):
            train(config, str(root))
    before = the_run(server, "resumed")
    assert before.info.status == "KILLED"
    train(config, str(root))
    after = the_run(server, "resumed")
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"
    assert curve(server, after, "training.loss") == [
        (line["step"], line["loss"]) for line in lines(root) if "loss" in line
    ]


@pytest.mark.slow
def test_a_server_that_is_down_while_training_gets_the_rest_later(
    small_config: SmallConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = mlflow_server.free_port()
    url = f"http://127.0.0.1:{port}"
    config = small_config(tracking={"mlflow": url}, evaluation={"bootstrap": 20})
    root = tmp_path / "run"
    prepare(config, str(root))
    caplog.clear()
    train(config, str(root))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([line for line in warnings if line.startswith(f"tracking.mlflow: not up to date: {url}: ")]) == 1
    with mlflow_server.serve(tmp_path / "server", port):
        evaluate(config, str(root))
        run = the_run(url, "twhin")
        expected = [(line["step"], line["loss"]) for line in lines(root) if "loss" in line]
        assert curve(url, run, "training.loss") == expected
        assert "test.all.mrr" in run.data.metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        ({"mlflow": "{server}/nothing-here"}, "tracking.mlflow: {server}/nothing-here"),
        ({"mlflow": "{server}", "experiment": "gone"}, "tracking.experiment: gone was deleted"),
    ],
)
def test_what_the_server_refuses_is_a_mistake_before_work(
    server: str, small_config: SmallConfig, tmp_path: Path, tracking: dict[str, str], message: str
) -> None:
    if "experiment" in tracking:
        client(server).delete_experiment(client(server).create_experiment("gone"))
    given = {key: value.format(server=server) for key, value in tracking.items()}
    with pytest.raises(UserError) as error:
        prepare(small_config(tracking=given), str(tmp_path / "run"))
    assert str(error.value).startswith(message.format(server=server))
    assert not (tmp_path / "run/graph").exists()


@pytest.mark.slow
def test_an_offline_store_in_a_file(small_config: SmallConfig, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = small_config(tracking={"mlflow": uri})
    prepare(config, str(tmp_path / "run"))
    train(config, str(tmp_path / "run"))
    run = the_run(uri, "twhin")
    expected = [(line["step"], line["loss"]) for line in lines(tmp_path / "run") if "loss" in line]
    assert curve(uri, run, "training.loss") == expected
    (saved,) = (tmp_path / "mlflow-artifacts").rglob("config.yaml")
    assert saved.read_bytes() == (tmp_path / "run/config.yaml").read_bytes()
