"""Graphs of 10,000 relations and of 300 tables go through all stages, in time that grows with their edges."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.command_line import twhin
from twhin_core.checkpoints import stored_tensor
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.graph.manifest import Manifest
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

EDGES = 60_000
TABLE = {"embedding_dim": 16, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}}


def config_of(folder: Path, relations: int, tables: list[str], entries: list[dict[str, str]], nodes: int) -> Config:
    """Edges drawn at random, at least one for each relation; relation k is called rel_k."""
    rng = np.random.default_rng(0)
    rel = np.append(np.arange(relations), rng.integers(relations, size=EDGES - relations))
    lhs, rhs = rng.integers(nodes, size=(2, EDGES))
    rows = "".join(f"{a},{b},rel_{r}\n" for a, b, r in zip(lhs.tolist(), rhs.tolist(), rel.tolist(), strict=True))
    (folder / "raw.csv").write_text(f"lhs,rhs,r\n{rows}")
    tree: dict[str, Any] = {
        "prepare": {
            "sources": [{"path": str(folder / "raw.csv"), "relation_column": "r"}],
            "split": {"validation": 0.1, "test": 0.2},
        },
        "model": {
            "embeddings": {"tables": [{"name": table, **TABLE} for table in tables]},
            "relations": entries,
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "relation_prediction": 0.1,
        },
        "training": {"num_train_steps": 5, "train_log_every_n": 5},
        "train_data": {"per_replica_batch_size": 1000, "in_batch_negatives": 10, "global_negatives": 10},
        "evaluation": {"bootstrap": 100},
    }
    return config_file.validate(Config, tree, "test")


def counted(function: Callable[..., Any], calls: list[float]) -> Callable[..., Any]:
    """The function, which notes each of its calls."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(time.monotonic())
        return function(*arguments, **options)

    return call


def run_through(config: Config, root: Path) -> tuple[Manifest, dict[str, Any], dict[str, Any]]:
    """All stages and `twhin describe`. Gives the manifest, and the metrics of exact and of sampled ranking."""
    manifest = prepare(config, str(root))
    train(config, str(root))
    exact = evaluate(config, str(root))
    changes = {"candidates": 20, "candidates_power": 0.5}
    sampling = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})
    sampled = evaluate(sampling, str(root))
    export(sampling, str(root))
    assert (root / "evaluation/report.html").exists()
    assert twhin("describe", root).returncode == 0
    for metrics in (exact, sampled):
        assert (
            sum(of["edges"] for name, of in metrics["test"].items() if name != "all") == manifest.splits["test"].edges
        )
        assert metrics["intervals"].keys() == metrics["test"].keys()
    return manifest, exact, sampled


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_relations(tmp_path: Path) -> None:
    config = config_of(tmp_path, 10_000, ["user", "item"], [{"name": "*", "lhs": "user", "rhs": "item"}], nodes=2000)
    manifest, _, _ = run_through(config, tmp_path / "run")
    assert sorted(entry.name for entry in manifest.relations) == sorted(f"rel_{k}" for k in range(10_000))
    exported = pq.read_table(tmp_path / "run/embeddings/relations.parquet")
    assert exported["name"].to_pylist() == [entry.name for entry in manifest.relations]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_hundred_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [f"t{number}" for number in range(300)]
    entries = [{"name": f"rel_{k}", "lhs": tables[k], "rhs": tables[(k + 1) % 300]} for k in range(300)]
    config = config_of(tmp_path, 300, tables, entries, nodes=30)
    manifests: list[float] = []
    indices: list[float] = []
    monkeypatch.setattr(Manifest, "model_validate", counted(Manifest.model_validate, manifests))
    monkeypatch.setattr(stored_tensor, "read_index", counted(stored_tensor.read_index, indices))
    manifest, exact, _ = run_through(config, tmp_path / "run")
    assert [entry.name for entry in manifest.tables] == tables
    assert len(exact["test"]) == 301
    for table in tables:
        assert pq.read_table(tmp_path / "run/embeddings" / table).num_rows <= 60
    assert len(manifests) < 20  # not once per table
    assert len(indices) < 20


@pytest.mark.slow
def test_a_config_of_two_thousand_relations_runs_as_its_stages_do(tmp_path: Path) -> None:
    entries = [{"name": f"rel_{k}", "lhs": "user", "rhs": "item"} for k in range(2000)]
    config = config_of(tmp_path, 2000, ["user", "item"], entries, nodes=60)
    path = tmp_path / "many.yaml"
    path.write_text(config_file.to_line(config))
    assert len(path.read_text()) > 128 * 1024 // 2
    ran = twhin("run", path, "--run-root", tmp_path / "run")
    assert ran.returncode == 0, ran.stderr
    for stage in (prepare, train):
        stage(config, str(tmp_path / "stages"))
    for file in ("graph/manifest.json", "training/plan.json"):
        assert (tmp_path / "run" / file).read_text() == (tmp_path / "stages" / file).read_text()
