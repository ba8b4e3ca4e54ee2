"""What stands in the report, and that it is only a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.report.made_metrics import BUCKETS, made_metrics, with_everything
from tests.report.page import Page
from twhin_core import __version__
from twhin_core.config import Config
from twhin_core.evaluation.metrics import Metrics, names
from twhin_core.report.write import write_report
from twhin_core.stages.evaluate import evaluate

NASTY = '<script>alert("1")</script>&.x'


def report(config: Config, metrics: Metrics, root: Path) -> Page:
    write_report(str(root / "report.html"), metrics, config, str(root))
    return Page((root / "report.html").read_text())


@pytest.fixture
def metrics(small_config: SmallConfig) -> Metrics:
    return made_metrics(["follow", "fav"], names(small_config().evaluation))


def test_it_has_every_metric_beside_the_baselines_and_the_optimum(
    small_config: SmallConfig, metrics: Metrics, tmp_path: Path
) -> None:
    page = report(small_config(), metrics, tmp_path)
    of = {"run": metrics["test"]["all"], **{name: found["all"] for name, found in metrics["baselines"].items()}}
    texts = {name: {metric: f"{value:.4f}" for metric, value in found.items()} for name, found in of.items()}
    assert ["metric", "this run", "popularity", "random", "planted optimum"] in page.rows
    for metric in names(small_config().evaluation):
        if metric != "edges" and not metric.endswith(("_lhs", "_rhs")):
            optimum = "0.9000" if metric == "mrr" else "–"
            row = [metric, *(texts[name][metric] for name in ("run", "popularity", "random")), optimum]
            assert row in page.rows
    for metric in ("mrr", "hits@1", "hits@10"):
        sides = [texts[name][f"{metric}_{side}"] for side in ("rhs", "lhs") for name in ("run", "popularity")]
        assert [metric, *sides] in page.rows
    assert "train edges" in page.texts
    assert "480" in page.texts


def test_intervals_degrees_and_the_previous_run_are_shown_where_there_are_any(
    small_config: SmallConfig, metrics: Metrics, tmp_path: Path
) -> None:
    without = report(small_config(), metrics, tmp_path)
    assert not {"previous", "previous run", "By degree"} & set(without.texts)
    assert not [row for row in without.rows if "95\u00a0% interval" in row]
    page = report(small_config(), with_everything(metrics), tmp_path)
    assert ["mrr", "0.3000", "0.2900 – 0.3200", "0.2000", "0.1000", "0.2800", "0.9000"] in page.rows
    assert "By degree" in page.texts
    hits = names(small_config().evaluation).index("hits@10")
    for row, bucket in enumerate(BUCKETS):
        found = next(cells for cells in page.rows if cells[0] == f"query {bucket}")
        assert found[1:3] == [str(100 + row), f"{0.25 + row / 10:.4f}"]
        for base in (0.25, 0.05, 0.2):
            assert f"{base + row / 10 + hits / 1000:.3f}" in page.texts
    assert next(cells for cells in page.rows if cells[0] == "answer 0").count("–") == 1  # recall@20


def test_sampled_figures_are_said_to_be_sampled(small_config: SmallConfig, metrics: Metrics, tmp_path: Path) -> None:
    exact = report(small_config(), metrics, tmp_path)
    assert not [text for text in exact.texts if "ampled" in text and text not in (str(tmp_path), tmp_path.name)]
    of = [f"sampled_{name}" for name in names(small_config().evaluation) if name != "edges"]
    sampled = made_metrics(["follow", "fav"], of, candidates={"count": 12345, "power": 0.0})
    page = report(small_config(), with_everything(sampled), tmp_path)
    assert "Sampled figures." in page.texts
    assert "12,345 nodes drawn uniformly" in page.text
    headings = [text for text in page.texts if text in ("Figures of all relations", "By relation", "By degree")]
    assert page.texts.count("sampled") == len(headings) == 3
    wrong = [row for row in page.rows if row[0].startswith(("mrr", "hits", "recall", "ndcg", "auc"))]
    assert not wrong
    assert ["sampled_mrr", "0.3000", "0.2900 – 0.3200", "0.2000", "0.1000", "0.2800"] in page.rows
    assert "planted optimum" not in page.texts  # it is exact


def test_the_decision_of_the_gates_is_shown_with_its_reasons(
    small_config: SmallConfig, metrics: Metrics, tmp_path: Path
) -> None:
    gates = [
        {"metric": "test.all.mrr", "value": 0.3, "previous": 0.29, "bounds": {"min": 0.25, "max_drop": 0.01},
         "passed": True, "reason": "test.all.mrr is 0.3, within its bounds"},
        {"metric": "test.fav.auc", "value": 0.5, "previous": None, "bounds": {"min": 0.75, "max": None},
         "passed": False, "reason": "test.fav.auc is 0.5, 0.25 below its gate of at least 0.75"},
    ]  # fmt: skip
    decision: dict[str, Any] = {"passed": False, "checkpoint": 4321, "gates": gates}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/gates.json").write_text(json.dumps(decision))
    page = report(small_config(), metrics, tmp_path)
    assert "✗ not passed" in page.texts
    bounds = "at least 0.25, at most 0.01 below the previous run"
    assert ["test.all.mrr", "0.3", "0.29", bounds, "✓ 0.3, within its bounds"] in page.rows
    assert ["test.fav.auc", "0.5", "–", "at least 0.75", "✗ 0.5, 0.25 below its gate of at least 0.75"] in page.rows
    (tmp_path / "evaluation/gates.json").write_text(json.dumps(decision | {"checkpoint": 1}))
    assert "Gates" not in report(small_config(), metrics, tmp_path).texts


def test_names_from_outside_are_escaped(small_config: SmallConfig, tmp_path: Path) -> None:
    metrics = made_metrics([NASTY, "fav"], names(small_config().evaluation))
    page = report(small_config(), metrics, tmp_path)
    assert "<script" not in page.source
    assert NASTY in page.texts


def test_it_loads_nothing_and_runs_nothing(trained: tuple[Config, str]) -> None:
    config, root = trained
    evaluate(config, root)
    page = Page(Path(root, "evaluation/report.html").read_text())
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "embed", "image", "use", "form"}
    assert not {name for name, _ in page.attributes} & {"src", "xlink:href", "style", "onload", "onclick"}
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert not re.search(r"url\(|@import|https?:", page.source)
    assert len(page.source) < 250_000


def test_of_many_relations_the_largest_are_shown(small_config: SmallConfig, tmp_path: Path) -> None:
    relations = [f"relation-{position}" for position in range(50)]  # each has one edge less than the one before
    metrics = made_metrics(relations, names(small_config().evaluation), planted=False)
    page = report(small_config(), metrics, tmp_path)
    shown = {text for text in page.texts if text.startswith("relation-")}
    assert shown == set(relations[:20])
    assert "The 20 relations with the most test edges, of 50" in page.text


def test_what_was_trained_is_found_in_the_run(trained: tuple[Config, str]) -> None:
    config, root = trained
    metrics = evaluate(config, root)
    page = Page(Path(root, "evaluation/report.html").read_text())
    nodes = metrics["graph"]["tables"]
    assert next(row for row in page.rows if row[:2] == ["user", str(nodes["user"])])[2] == "fp32"
    assert ["user", "local", "1", str(nodes["user"]), "8", "0.0 MiB"] in page.rows
    manifest = json.loads(Path(root, "graph/manifest.json").read_text())
    for relation in manifest["relations"]:
        edges = [str(relation["edges"][split]) for split in ("train", "validation", "test")]
        tables = f"{relation['lhs']} → {relation['rhs']}"
        assert [relation["name"], tables, "translation", "1", *edges] in page.rows
    for text in ("torch", "torchrec", "rowwise_adagrad 0.1", "Loss", "Throughput", "Plan", "Two principal components"):
        assert text in page.texts
    assert "after step 16: all steps are done" in page.texts
    assert page.texts[page.texts.index("trained by") + 1] == f"twhin {__version__}"
    assert page.texts[page.texts.index("config written by") + 1].startswith(f"twhin {__version__}, revision ")
    assert Path(root, "config.yaml").read_text().strip() in page.texts


def test_data_that_was_trained_elsewhere_has_a_report_without_training(
    trained: tuple[Config, str], small_config: SmallConfig
) -> None:
    config, root = trained
    metrics = evaluate(config, root)
    for name in ("metrics.jsonl", "plan.json", "finished.json"):
        Path(root, "training", name).unlink()
    page = report(config, metrics, Path(root))
    assert not {"Training", "Plan", "Loss"} & set(page.texts)
    assert "Vectors" in page.texts
    page = report(config, metrics | {"checkpoint": 1}, Path(root))  # no longer there
    assert not {"Vectors", "Nearest neighbors"} & set(page.texts)


def test_a_broken_vocabulary_costs_the_neighbors_but_not_the_figures(trained: tuple[Config, str]) -> None:
    config, root = trained
    for file in Path(root, "graph/vocab/tweet").iterdir():
        file.write_bytes(b"PAR1")
    metrics = evaluate(config, root)
    page = Page(Path(root, "evaluation/report.html").read_text())
    assert f"{metrics['test']['all']['mrr']:.4f}" in page.texts
    assert "Vectors" in page.texts
    assert "Nearest neighbors" not in page.texts
