"""The stage, on real graphs and checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import SmallConfig
from tests.evaluation.brute_force import BruteForce, Triple
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import newest, remove
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import GateFailed, UserError
from twhin_core.evaluation import measure as measuring
from twhin_core.evaluation.measure import measure_rows
from twhin_core.evaluation.metrics import Metrics
from twhin_core.graph.manifest import read_manifest
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.follow import follow
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.vectors.rows import TensorRows

TABLES = [("user", "user"), ("user", "tweet")]  # of follow and fav
FOLDERS = {"test": "evaluation", "validation": "evaluation/validation"}
RELATIONS = {"all": None, "follow": 0, "fav": 1}


def changed(config: Config, **evaluation: object) -> Config:
    tree = config.model_dump()
    tree["evaluation"].update(evaluation)
    return config_file.validate(Config, tree, "changed")


def brute_force(config: Config, root: str, evaluated: str) -> BruteForce:
    """The definition, on the files and the checkpoint under `root`."""
    manifest, checkpoint = read_manifest(root), newest(root)
    assert manifest is not None
    assert checkpoint is not None
    nodes = {table.name: table.num_embeddings for table in manifest.tables}
    vectors = {name: checkpoint.rows(name).read(0, rows).double() for name, rows in nodes.items()}
    scorer = checkpoint.scorer(config.model, config.model.relations)
    translation = scorer.operator.translation.detach().double()

    def score(side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        return float((vectors[TABLES[rel][0]][lhs] + translation[rel]) @ vectors[TABLES[rel][1]][rhs])

    splits = {
        split: [
            (row["lhs"], row["rel"], row["rhs"])
            for path in sorted(Path(root, "graph/edges", split).glob("*.parquet"))
            for row in pq.read_table(path).to_pylist()
        ]
        for split in ("train", "validation", "test")
    }
    sizes = {side: [nodes[tables[end]] for tables in TABLES] for end, side in enumerate(("lhs", "rhs"))}
    return BruteForce(splits, evaluated, sizes, score)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_metrics_of_a_trained_run_are_those_of_the_definition(trained: tuple[Config, str], split: str) -> None:
    config, root = trained
    config = changed(config, split=split, memory_limit="1MB")
    metrics = evaluate(config, root)
    assert storage.read_json(f"{root}/{FOLDERS[split]}/metrics.json") == metrics
    expected = brute_force(config, root, split)
    assert list(metrics[split]) == list(RELATIONS)
    for name, rel in RELATIONS.items():
        figures = expected.figures(rel, [1, 3, 10], [10, 20, 50])
        if name == "all":
            assert 0.2 < metrics[split]["all"].pop("auc_reference") < 0.9  # see test_reference_auc.py
        assert metrics[split][name] == pytest.approx(figures, abs=1e-9)
    for baseline in ("popularity", "random"):
        assert {name: set(of) for name, of in metrics["baselines"][baseline].items()} == {
            name: set(of) for name, of in metrics[split].items()
        }
    assert metrics["graph"]["tables"] == {"user": 40, "tweet": 30}
    assert sum(metrics["graph"]["edges"].values()) == 600
    assert metrics["checkpoint"] == newest(root).step


def test_rows_that_no_node_has_are_no_negatives(small_config: SmallConfig, tmp_path: Path) -> None:
    tables = [
        {"name": name, "num_embeddings": 500, "embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}
        for name in ("user", "tweet")
    ]
    config, root = small_config(model={"embeddings": {"tables": tables}}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    metrics = evaluate(config, root)
    figures = brute_force(config, root, "test").figures(None, [1, 3, 10], [10, 20, 50])
    assert metrics["test"]["all"].pop("auc_reference")
    assert metrics["test"]["all"] == pytest.approx(figures, abs=1e-9)
    assert metrics["graph"]["tables"] == {"user": 40, "tweet": 30}


def test_evaluated_again_it_finds_its_metrics(trained: tuple[Config, str], caplog: pytest.LogCaptureFixture) -> None:
    config, root = trained
    first = evaluate(config, root)
    file = Path(root, "evaluation/metrics.json")
    written = file.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "twhin"):
        assert evaluate(changed(config, gates={"test.all.mrr": {"min": 0.9}}), root) == first
    assert "evaluate: up to date: " in caplog.text
    assert file.stat().st_mtime_ns == written


def test_other_vectors_of_a_checkpoint_can_be_measured(trained: tuple[Config, str]) -> None:
    config, root = trained
    checkpoint = newest(root)
    tables = {name: checkpoint.rows(name) for name in ("user", "tweet")}
    assert measure_rows(config, root, checkpoint, tables) == evaluate(config, root)["test"]
    collapsed = {name: TensorRows(torch.ones(rows.size, rows.dim)) for name, rows in tables.items()}
    assert measure_rows(config, root, checkpoint, collapsed)["all"]["auc"] == 0.5, "all tie"


def test_another_checkpoint_is_evaluated_anew(trained: tuple[Config, str]) -> None:
    config, root = trained
    last = evaluate(config, root)
    remove(newest(root))
    before = evaluate(config, root)
    assert before["checkpoint"] < last["checkpoint"]
    assert before["test"] != last["test"]


def test_other_settings_are_evaluated_anew(trained: tuple[Config, str]) -> None:
    config, root = trained
    evaluate(config, root)
    assert "hits@2" in evaluate(changed(config, hits_at=[2]), root)["test"]["all"]
    assert "test" not in evaluate(changed(config, split="validation"), root)
    limited = config_file.validate(Config, config.model_dump() | {"test_data": {"limit": 7}}, "limited")
    assert evaluate(limited, root)["test"]["all"]["edges"] == 7


def test_metrics_of_a_release_that_had_fewer_figures_are_made_anew(trained: tuple[Config, str]) -> None:
    config, root = trained
    metrics = evaluate(config, root)
    fewer = {name: {key: of for key, of in figures.items() if "amri" not in key}
             for name, figures in metrics["test"].items()}  # fmt: skip
    storage.write_json(f"{root}/evaluation/metrics.json", metrics | {"test": fewer})
    assert evaluate(changed(config, headline="amri_rhs"), root) == metrics | {"headline": "amri_rhs"}


@pytest.mark.parametrize("splits", [("test", "validation"), ("validation", "test"), ("test", "validation", "test")])
@pytest.mark.parametrize("by", [evaluate, follow])
def test_the_results_of_a_split_stay_when_the_other_is_evaluated(
    by: Callable[[Config, str], object], splits: tuple[str, ...], trained: tuple[Config, str]
) -> None:
    config, root = trained
    first, *others = splits
    by(changed(config, split=first), root)
    names = ("metrics.json", "gates.json", "report.html", "ranks.parquet")
    before = {name: Path(root, FOLDERS[first], name).read_bytes() for name in names}
    saved = Path(root, "config.yaml").read_text()
    for split in others:
        by(changed(config, split=split), root)
        assert split in json.loads(Path(root, FOLDERS[split], "metrics.json").read_text())
        assert all(Path(root, FOLDERS[split], name).exists() for name in names)
    assert {name: Path(root, FOLDERS[first], name).read_bytes() for name in names} == before
    assert Path(root, "config.yaml").read_text() == saved, "it is the run's, not the last call's"
    if by is follow:
        steps = {split: sorted(path.parent.name for path in Path(root, FOLDERS[split]).glob("[0-9]*/metrics.json"))
                 for split in splits}  # fmt: skip
        assert steps["test"] == steps["validation"]
        assert len(steps["test"]) > 2


def test_gates_decide_on_the_metrics_of_their_split(trained: tuple[Config, str]) -> None:
    config, root = trained
    evaluate(changed(config, gates={"test.all.mrr": {"min": 2}}), root)
    evaluate(changed(config, split="validation", gates={"validation.all.mrr": {"min": 0}}), root)
    passed = {split: json.loads(Path(root, of, "gates.json").read_text())["passed"] for split, of in FOLDERS.items()}
    assert passed == {"test": False, "validation": True}
    with pytest.raises(GateFailed, match=r"test\.all\.mrr is"):
        export(changed(config, gates={"test.all.mrr": {"min": 2}}), root)
    export(changed(config, split="validation", gates={"validation.all.mrr": {"min": 0}}), root)


def test_a_killed_evaluation_is_not_taken_for_whole(trained: tuple[Config, str]) -> None:
    config, root = trained
    metrics = evaluate(config, root)
    report = Path(root, "evaluation/report.html")
    report.unlink()
    assert evaluate(config, root) == metrics
    assert report.exists()


def test_without_a_checkpoint_it_says_to_train(small_config: SmallConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete checkpoint; run `twhin train` first"):
        evaluate(small_config(), str(tmp_path / "run"))


def test_a_gate_that_names_no_metric_is_found_before_any_work(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(evaluation={"gates": {"test.all.mmr": {"min": 0.1}}})
    with pytest.raises(UserError, match=r"test\.all\.mmr names no metric; near it: test\.all\.mrr"):
        evaluate(config, str(tmp_path / "run"))


def test_edges_that_are_not_there_to_evaluate_are_an_error(trained: tuple[Config, str], tmp_path: Path) -> None:
    config, root = trained
    nowhere = config.model_dump() | {"test_data": {"data_root": str(tmp_path / "nowhere/*")}}
    with pytest.raises(UserError, match=r"nowhere/\*: no file matches"):
        evaluate(config_file.validate(Config, nowhere, "nowhere"), root)
    empty = config.model_dump() | {"test_data": {"offset": 1000}}
    with pytest.raises(UserError, match="the test split has no edges"):
        evaluate(config_file.validate(Config, empty, "empty"), root)


def test_a_checkpoint_that_is_removed_while_it_is_read_is_one_line(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    gone = newest(root)
    ranked = measuring.measure

    def removing(*arguments: Any, **options: Any) -> Metrics:
        remove(gone)
        return ranked(*arguments, **options)

    monkeypatch.setattr(measuring, "measure", removing)
    with pytest.raises(UserError, match=r"checkpoints/16: this checkpoint was removed while it was being read"):
        evaluate(config, root)
    assert not Path(root, "evaluation/metrics.json").exists()
    monkeypatch.undo()
    assert evaluate(config, root)["checkpoint"] < gone.step, "the newest that is whole"


def test_a_checkpoint_that_is_being_written_is_not_read(trained: tuple[Config, str]) -> None:
    """Without its marker it is not there yet."""
    config, root = trained
    last = newest(root)
    Path(last.url, "complete.json").unlink()
    Path(root, "training/finished.json").unlink()
    assert evaluate(config, root)["checkpoint"] < last.step


def test_a_finished_run_whose_last_checkpoint_has_lost_its_marker_is_refused(trained: tuple[Config, str]) -> None:
    config, root = trained
    Path(newest(root).url, "complete.json").unlink()
    with pytest.raises(UserError, match=r"checkpoints/16/complete\.json: is missing"):
        evaluate(config, root)


def test_the_decision_of_the_gates_is_written_and_follows_the_gates(trained: tuple[Config, str]) -> None:
    config, root = trained
    evaluate(config, root)
    decision = Path(root, "evaluation/gates.json")
    assert storage.read_json(str(decision)) == {"passed": True, "checkpoint": newest(root).step, "gates": []}
    evaluate(changed(config, gates={"test.all.mrr": {"min": 2}}), root)
    written = storage.read_json(str(decision))
    assert not written["passed"]
    assert written["gates"][0]["reason"].endswith("below its gate of at least 2")
