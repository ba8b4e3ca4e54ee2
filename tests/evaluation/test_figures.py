"""Figures by degree, their intervals, and those of sampled candidates."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.stages.test_evaluate import brute_force, changed
from twhin_core.config import Config, Evaluation
from twhin_core.errors import UserError
from twhin_core.evaluation.intervals import Groups, intervals, quantiles
from twhin_core.evaluation.metrics import Sums, bucket_of, buckets
from twhin_core.output import print_tables
from twhin_core.report.summary import list_metrics
from twhin_core.stages.evaluate import evaluate

TABLES = [("user", "user"), ("user", "tweet")]  # of follow and fav
BOUNDS = [1, 12, 14, 30]


def test_buckets_are_named_by_their_bounds() -> None:
    evaluation = Evaluation(degree_buckets=[1, 2, 10, 1000])
    assert buckets(evaluation) == ["0", "1", "2-9", "10-999", "1000+"]
    assert bucket_of(np.array([0, 1, 2, 9, 10, 999, 1000, 10**6]), evaluation).tolist() == [0, 1, 2, 2, 3, 3, 4, 4]
    assert buckets(Evaluation(degree_buckets=[5])) == ["0-4", "5+"]


def test_figures_by_degree_are_those_of_the_edges_in_each_bucket(trained: tuple[Config, str]) -> None:
    config, root = trained
    metrics = evaluate(changed(config, degree_buckets=BOUNDS), root)
    expected = brute_force(config, root, "test")
    degree: dict[tuple[str, int], int] = {}
    for lhs, rel, rhs in expected.splits["train"]:
        for node in ((TABLES[rel][0], lhs), (TABLES[rel][1], rhs)):
            degree[node] = degree.get(node, 0) + 1
    names = buckets(config.evaluation.model_copy(update={"degree_buckets": BOUNDS}))
    for kind in ("query", "answer"):
        ranks: dict[str, list[tuple[str, float, int]]] = {}
        for edge in expected.held:
            lhs, rel, rhs = edge
            for side in ("lhs", "rhs"):
                ends = {"lhs": (TABLES[rel][0], lhs), "rhs": (TABLES[rel][1], rhs)}
                node = ends[side if kind == "answer" else {"lhs": "rhs", "rhs": "lhs"}[side]]
                name = names[sum(degree.get(node, 0) >= bound for bound in BOUNDS)]
                ranks.setdefault(name, []).append((side, *expected.rank_and_negatives(side, edge)))
        found = metrics["degrees"]["model"][kind]
        assert set(found) == set(ranks)
        assert len(found) > 2
        assert list(found) == [name for name in names if name in found], "cold to hot"
        for name, of in ranks.items():
            assert found[name]["edges"] == len(of)
            assert found[name]["mrr"] == pytest.approx(sum(1 / rank for _, rank, _ in of) / len(of))
            assert found[name]["hits@3"] == pytest.approx(sum(rank <= 3 for _, rank, _ in of) / len(of))
            assert found[name]["auc"] == pytest.approx(
                sum(1 - (rank - 1) / negatives for _, rank, negatives in of) / len(of)
            )
            lhs = [rank for side, rank, _ in of if side == "lhs"]
            assert ("mrr_lhs" in found[name]) == bool(lhs), "a figure of nothing is left out"
            if lhs:
                assert found[name]["mrr_lhs"] == pytest.approx(sum(1 / rank for rank in lhs) / len(lhs))
            asks_for_rhs = any(side == "rhs" for side, _, _ in of)
            assert ("recall@10" in found[name]) == (kind == "query" and asks_for_rhs)
    assert sum(figures["edges"] for figures in found.values()) == 2 * metrics["test"]["all"]["edges"]
    assert set(metrics["degrees"]) == {"model", "popularity"}


@pytest.mark.parametrize("missing", [0.0, 0.2, 0.9])
def test_quantiles_leave_out_what_is_missing(missing: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 30)).round(1)
    values[1:][rng.random((199, 30)) < missing] = np.nan
    shares = [0, 0.025, 0.3, 0.5, 0.975, 1]
    np.testing.assert_allclose(quantiles(values, shares), np.nanquantile(values, shares, axis=0), atol=1e-12)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Means of 400 values with a known expectation, 200 times over: 95 % of the intervals hold it, within four
    standard deviations of the binomial law."""
    evaluation = Evaluation(bootstrap=200)
    names = ["mrr", *(f"hits@{k}" for k in evaluation.hits_at)]
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        values = rng.exponential(0.3, 400)
        groups = Groups(np.zeros(400, np.int64), 1, trial)
        found = intervals(
            groups, all_sums(values, groups.of_all), all_sums(values, groups.of_relation), ["to"], evaluation
        )
        low, high = found["to"]["mrr"]
        assert low < values.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.25)
        held += low <= 0.3 <= high
    assert names[0] in found["all"]
    assert held / 200 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 200))


def all_sums(values: np.ndarray, label: np.ndarray) -> Sums:
    """Sums of the same values under the name of every figure."""
    of, over = np.bincount(label, values), np.bincount(label).astype(np.float64)

    class Every(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return self["values"]

    return Sums(Every(values=of), Every(values=over))


def test_queries_are_dealt_to_groups_of_their_relation() -> None:
    rel = np.repeat([0, 1, 3], [5000, 7, 1])
    groups = Groups(rel, 4, 0)
    for of in (0, 1, 3):
        mine = groups.of_relation[rel == of]
        assert set(groups.relation[mine].tolist()) == {of}
        sizes = np.bincount(mine - mine.min())
        assert len(sizes) == min(1000, (rel == of).sum())
        assert sizes.max() - sizes.min() <= 1
    assert np.bincount(groups.of_all).max() == 6  # 5,008 queries in 1,000 groups


def test_every_figure_has_an_interval_around_it(trained: tuple[Config, str]) -> None:
    config, root = trained
    metrics = evaluate(config, root)
    for relation, figures in metrics["test"].items():
        whole = {"edges", "auc_reference"}
        assert list(metrics["intervals"][relation]) == [name for name in figures if name not in whole]
        for name, (low, high) in metrics["intervals"][relation].items():
            assert low <= figures[name] <= high, (relation, name)
            of_few = name.startswith(("recall", "ndcg")) and name.endswith("_lhs")  # 12 tweets are asked about
            scale = 2 if name.startswith("amri") else 1  # from -1 to 1
            assert (high - low) / scale < (0.6 if of_few else 0.5)
    low, high = metrics["intervals"]["all"]["mrr"]
    assert high > low


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_sampled_figures_say_so_everywhere(trained: tuple[Config, str], power: float) -> None:
    config, root = trained
    exact = evaluate(config, root)
    assert exact["candidates"] is None
    sampled = evaluate(changed(config, candidates=15, candidates_power=power), root)
    assert sampled["candidates"] == {"count": 15, "power": power}
    groups = [sampled["test"], sampled["intervals"]]
    groups += [of for kind in sampled["degrees"].values() for of in kind.values()]
    groups += list(sampled["baselines"].values())
    for group in groups:
        assert group
        for figures in group.values():
            assert all(name.startswith("sampled_") or name == "edges" for name in figures)
    assert [name.removeprefix("sampled_") for name in sampled["test"]["all"]] == list(exact["test"]["all"])
    assert sampled["test"]["all"]["sampled_mrr"] > exact["test"]["all"]["mrr"], "fewer negatives"
    output = io.StringIO()
    print_tables(list_metrics(sampled), Console(file=output, width=200))
    assert "15 sampled candidates" in output.getvalue()
    assert Path(root, "evaluation/report.html").read_text().count("sampled_mrr") > 0


def test_more_candidates_than_nodes_are_refused_before_any_ranking(trained: tuple[Config, str]) -> None:
    config, root = trained
    with pytest.raises(UserError, match="candidates: 31 are more than the 30 nodes of table tweet"):
        evaluate(changed(config, candidates=31), root)
