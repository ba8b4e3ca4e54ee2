"""What stands in the report, and that it is only a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.report.made_metrics import BUCKETS, made_metrics, made_probe, with_everything
from tests.report.page import Page
from twhin_core import __version__, limits
from twhin_core.config import Config
from twhin_core.durations import read_durations
from twhin_core.evaluation import measure as measuring
from twhin_core.evaluation.metrics import Metrics, names
from twhin_core.report import vectors
from twhin_core.report.write import write_report
from twhin_core.sizes import readable
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare

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
    wrong = [row for row in page.rows if row[0].startswith(("mrr", "hits", "recall", "ndcg", "auc", "amri"))]
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
        {"metric": "lists.fav.recall@10", "value": 0.5, "previous": None, "passed": True, "baseline": 0.25,
         "bounds": {"min": 0.1, "at_least_baseline": "item-item", "factor": 1.5},
         "reason": "lists.fav.recall@10 is 0.5, within its bounds"},
    ]  # fmt: skip
    decision: dict[str, Any] = {"passed": False, "checkpoint": 4321, "gates": gates}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/gates.json").write_text(json.dumps(decision))
    page = report(small_config(), metrics, tmp_path)
    assert "✗ not passed" in page.texts
    bounds = "at least 0.25, at most 0.01 below the previous run"
    assert ["test.all.mrr", "0.3", "0.29", bounds, "✓ 0.3, within its bounds"] in page.rows
    assert ["test.fav.auc", "0.5", "–", "at least 0.75", "✗ 0.5, 0.25 below its gate of at least 0.75"] in page.rows
    bounds = "at least 0.1, at least 1.5 times the 0.25 of item-item"
    assert ["lists.fav.recall@10", "0.5", "–", bounds, "✓ 0.5, within its bounds"] in page.rows
    (tmp_path / "evaluation/gates.json").write_text(json.dumps(decision | {"checkpoint": 1}))
    assert "Gates" not in report(small_config(), metrics, tmp_path).texts


def test_the_probe_shows_what_each_input_predicts_and_what_vectors_add(
    small_config: SmallConfig, metrics: Metrics, tmp_path: Path
) -> None:
    page = report(small_config(), metrics | {"probe": made_probe("user", "churned", ["no", "yes"])}, tmp_path)
    assert ["vectors", "0.7000", "0.6900 – 0.7200", "0.7100", "0.7000 – 0.7300"] in page.rows
    gain = ["+0.1250", "+0.0625 – +0.1875", "-0.0312", "-0.0512 – +0.0112"]
    assert ["vectors over training degree", *gain] in page.rows
    assert ["features and vectors over features alone", *gain] in page.rows
    assert "345 are of ids that the table does not have" in " ".join(page.texts)
    assert "Probe" not in report(small_config(), metrics, tmp_path).texts


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


SIDED = ["mrr_rhs", "mrr_lhs", "hits@3_rhs", "recall@20_lhs", "ndcg@10_rhs"]


@pytest.mark.parametrize("headline", ["mrr", "hits@1", "recall@50", "auc", *SIDED])
def test_the_headline_comes_first_everywhere(
    small_config: SmallConfig, metrics: Metrics, tmp_path: Path, headline: str
) -> None:
    page = report(small_config(), metrics | {"headline": headline}, tmp_path)
    value = f"{metrics['test']['all'][headline]:.4f}"
    assert page.texts.index(headline) == page.texts.index(value) - 1  # the first tile
    first = page.rows[page.rows.index(["metric", "this run", "popularity", "random", "planted optimum"]) + 1]
    assert first[:2] == [headline, value]
    assert f"{headline} by relation" in page.texts
    assert next(row for row in page.rows if row[0] == "relation")[2] == headline
    side = headline[-4:] if headline in SIDED else ""
    assert f"hits@10{side} by the number of training edges" in page.text or "By degree" not in page.text


def test_recall_and_ndcg_are_shown_by_the_side(small_config: SmallConfig, metrics: Metrics, tmp_path: Path) -> None:
    page = report(small_config(), metrics, tmp_path)
    for stem in ("recall@10", "recall@20", "recall@50", "ndcg@10", "ndcg@20", "ndcg@50"):
        columns = (metrics["test"]["all"], metrics["baselines"]["popularity"]["all"])
        assert [stem, *(f"{of[f'{stem}_{side}']:.4f}" for side in ("rhs", "lhs") for of in columns)] in page.rows


@pytest.mark.parametrize("is_sampled", [False, True])
@pytest.mark.parametrize("is_planted", [False, True])
@pytest.mark.parametrize("has_previous", [False, True])
def test_what_is_easily_misread_has_a_footnote(
    small_config: SmallConfig, tmp_path: Path, is_sampled: bool, is_planted: bool, has_previous: bool
) -> None:
    prefix = "sampled_" if is_sampled else ""
    of = [prefix + name for name in [*names(small_config().evaluation)[:-1], "auc_reference"]]
    candidates = {"candidates": {"count": 10, "power": 0.0}} if is_sampled else {}
    metrics = made_metrics(["follow", "fav"], of, planted=False, **candidates)
    if is_planted:
        metrics["planted"] = {"all": {of[0]: 0.9, "edges": 9}}
    if has_previous:
        metrics = with_everything(metrics)
    page = report(small_config(), metrics, tmp_path)
    noted = {name for name, _ in page.footnotes}
    plain = {"popularity", "random"} | ({"planted optimum"} if is_planted else set())
    plain |= {"previous run"} if has_previous else set()
    expected = plain | {
        name
        for name in of
        if is_sampled or name.startswith(("recall", "ndcg", "auc", "amri"))
        if not name.endswith(("_lhs", "_rhs"))  # they are in tables that say the side
    }
    assert noted - {"sampled_mrr_rhs", "sampled_mrr_lhs", "sampled_hits@10_rhs"} == expected
    numbers = {number for _, number in page.footnotes}
    assert numbers == {str(at) for at in range(1, len(numbers) + 1)}
    ids = [value for name, value in page.attributes if name == "id" and value.startswith("note-")]
    assert ids == [f"note-{at}" for at in range(1, len(ids) + 1)]
    assert numbers <= {value.removeprefix("note-") for value in ids}
    assert f"Trust {of[0]} first" in page.texts


def test_changes_are_of_the_relations_that_both_runs_have(
    small_config: SmallConfig, metrics: Metrics, tmp_path: Path
) -> None:
    metrics = with_everything(metrics)
    before = {of: metrics["baselines"]["previous"][of] for of in ("all", "fav")}
    metrics["baselines"]["previous"] = before
    metrics["differences"] = {
        of: {name: [0.0123, -0.01, 0.5] for name in figures if name != "edges"} for of, figures in before.items()
    }
    page = report(small_config(), metrics, tmp_path)
    assert "Both runs have 1 of the 2 relations" in page.text
    assert ["metric", "this run", "95\u00a0% interval", "popularity", "random", "planted optimum"] in page.rows
    for name in ("mrr", "hits@10", "recall@20", "auc"):
        value = before["all"][name]
        row = [name, f"{value:.4f}", f"{value + 0.0123:.4f}", "+0.0123", "-0.0100 – +0.5000"]
        assert row in page.rows
    bars = [text for text in page.texts if text == f"{before['fav']['mrr']:.3f}"]
    assert len(bars) == 1
    assert "previous run" in page.texts
    both = metrics | {"differences": metrics["differences"] | {"follow": metrics["differences"]["fav"]}}
    both["baselines"] = metrics["baselines"] | {"previous": before | {"follow": before["fav"]}}
    page = report(small_config(), both, tmp_path)
    assert "of the 2 relations" not in page.text
    value = before["fav"]["mrr"]
    for relation in ("follow", "fav"):
        assert [relation, f"{value:.4f}", f"{value + 0.0123:.4f}", "+0.0123", "-0.0100 – +0.5000"] in page.rows


def test_rejected_rows_are_counted_by_their_reasons(
    small_config: SmallConfig, metrics: Metrics, tmp_path: Path
) -> None:
    config = small_config()
    raw = pq.read_table(tmp_path / "raw.parquet")
    broken = pa.table({"lhs": [None] * 3, "relation": ["fav"] * 3, "rhs": ["t1"] * 3}, schema=raw.schema)
    pq.write_table(pa.concat_tables([raw, raw.slice(0, 17), broken]), tmp_path / "raw.parquet")
    prepare(config, str(tmp_path))
    page = report(config, metrics, tmp_path)
    assert "20 raw rows did not become edges" in page.text
    assert ["duplicate", "17", "85.0%"] in page.rows
    assert ["null_id", "3", "15.0%"] in page.rows
    prepared, machine = read_durations(str(tmp_path))["prepare"], limits.memory()
    row = next(row for row in page.rows if row[0] == "prepare")
    assert row[2:] == [prepared["ended"][:16].replace("T", " ") + " UTC", prepared["machine"], str(limits.cores()),
                       readable(machine), "–"]  # fmt: skip


def test_the_page_says_when_and_where_it_was_evaluated(trained: tuple[Config, str]) -> None:
    config, root = trained
    evaluate(config, root)
    page = Page(Path(root, "evaluation/report.html").read_text())
    of = read_durations(root)["evaluate"]
    cores = f"{of['cores']} core{'s' if of['cores'] > 1 else ''}"
    day = of["ended"][:16].replace("T", " ")
    assert f"Evaluated {day} UTC on {of['machine']} ({cores}, {readable(of['memory'])}, no GPU)" in page.text
    assert "None: every raw row became an edge." in page.texts


def test_a_projection_of_little_variance_is_one_line(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    monkeypatch.setattr(vectors, "LEAST_SHARE", 1.1)
    page = report(config, evaluate(config, root), Path(root))
    assert re.search(r"The first two principal components carry only [\d.]+% of the variance", page.text)
    assert "Two principal components" not in page.texts


def test_another_headline_draws_the_report_again_without_ranking(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    first = evaluate(config, root)
    monkeypatch.setattr(measuring, "measure", None)
    for headline in ("recall@20_lhs", "mrr", "mrr_rhs"):
        evaluation = config.evaluation.model_copy(update={"headline": headline})
        assert evaluate(config.model_copy(update={"evaluation": evaluation}), root) == first | {"headline": headline}
        page = Page(Path(root, "evaluation/report.html").read_text())
        assert f"Trust {headline} first" in page.texts
        assert json.loads(Path(root, "evaluation/metrics.json").read_text())["headline"] == headline


def test_drift_is_shown_where_there_is_an_earlier_version(
    small_config: SmallConfig, metrics: Metrics, tmp_path: Path
) -> None:
    assert "Drift" not in report(small_config(), metrics, tmp_path).texts
    of = {"cosine": 0.912, "distance": 0.41, "neighbors@10": 0.62, "rbo@10": 0.7}
    drift = {
        "tables": {
            "user": {"all": {"nodes": 1000, **of}, "0": {"nodes": 10, **of}, "1-9": {"nodes": 990, **of}},
            "tweet": {"all": {"nodes": 30, "neighbors@10": 0.25, "rbo@10": 0.3}},
        },
        "relations": {"fav": {"queries": 12, "answers@10": 0.81}},
    }
    page = report(small_config(), metrics | {"drift": drift}, tmp_path)
    assert ["user", "1,000", "0.912", "0.410", "0.620", "0.700"] in page.rows
    assert ["tweet", "30", "–", "–", "0.250", "0.300"] in page.rows
    assert ["fav", "12", "0.810"] in page.rows
    assert "990 nodes" in page.texts
