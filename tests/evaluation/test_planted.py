"""The planted optimum of a generated network: ranks by the true rates, of the very edges that the model ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.evaluation.brute_force import BruteForce, Triple
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.config.generate import Generate
from twhin_core.evaluation.metrics import ALL
from twhin_core.evaluation.planted import PlantedRates
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import FilteredQueries
from twhin_core.schema import Schema
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.synthetic.planted import KINDS, plant

# Some users and tweets get no edge, and so no row: ranks among all planted nodes would differ.
SMALL = Generate(users=90, tweets=140, communities=6, interests=2, edges_per_user=8, seed=5)
RELATIONS = [{"name": kind.name, "lhs": "user", "rhs": kind.rhs} for kind in KINDS]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Config, str]]:
    """The run, made by the first test that asks for it."""
    return {}


@pytest.fixture
def run(generated: dict[str, tuple[Config, str]], small_config: SmallConfig, tmp_path: Path) -> tuple[Config, str]:
    if not generated:
        config = small_config(
            prepare={"sources": [], "generate": SMALL.model_dump()},
            model={"relations": RELATIONS},
            training={"num_train_steps": 2},
        )
        root = str(tmp_path / "run")
        prepare(config, root)
        train(config, root)
        generated["small"] = config, root
    return generated["small"]


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    tree = config.model_dump()
    for section, values in sections.items():
        tree[section] = {**(tree[section] or {}), **values}
    return config_file.validate(Config, tree, "changed")


def numbers(root: str, table: str) -> list[int]:
    """The number in the network of each row, from the vocabulary."""
    rows = sorted(pq.read_table(Path(root, "graph/vocab", table)).to_pylist(), key=lambda row: row["index"])
    return [int(row["id"].split(":")[1]) for row in rows]


def brute_force(root: str, evaluated: str, edges: int | None = None) -> BruteForce:
    """`edges`: how many of the split are ranked."""
    splits: dict[str, list[Triple]] = {}
    for split in ("train", "validation", "test"):
        rows = pq.read_table(Path(root, "graph/edges", split)).to_pylist()
        splits[split] = [(row["lhs"], row["rel"], row["rhs"]) for row in rows]
    splits[evaluated] = splits[evaluated][:edges]
    of = {table: numbers(root, table) for table in ("user", "tweet")}
    planted = plant(SMALL, np.random.default_rng(SMALL.seed))
    sizes = {"lhs": [len(of["user"])] * 4, "rhs": [len(of[kind.rhs]) for kind in KINDS]}

    def rate(side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        return float(planted[rel].rates(np.array(of["user"][lhs]), np.array(of[KINDS[rel].rhs][rhs])))

    return BruteForce(splits, evaluated, sizes, rate)


@pytest.mark.parametrize(
    ("split", "limit"), [("test", None), ("validation", None), ("test", 11)], ids=["test", "validation", "limit"]
)
def test_the_optimum_is_that_of_the_edges_that_are_ranked(
    run: tuple[Config, str], split: str, limit: int | None
) -> None:
    config, root = run
    config = changed(config, evaluation={"split": split, "hits_at": [1, 5], "recall_at": [3, 20]})
    if limit is not None:
        config = changed(config, test_data={"limit": limit})
    metrics = evaluate(config, root)
    plain = brute_force(root, split, limit)
    for rel, name in [(None, ALL), *enumerate(kind.name for kind in KINDS)]:
        if name not in metrics[split]:
            assert rel is not None
            assert not any(edge[1] == rel for edge in plain.held)
            continue
        expected = plain.figures(rel, [1, 5], [3, 20])
        assert metrics["planted"][name] == pytest.approx(expected), name
        assert metrics["planted"][name]["edges"] == metrics[split][name]["edges"]
    assert metrics["planted"][ALL]["mrr"] > 2 * metrics["baselines"]["popularity"][ALL]["mrr"]


def test_among_sampled_candidates_the_optimum_is_sampled_too(run: tuple[Config, str]) -> None:
    config, root = run
    metrics = evaluate(changed(config, evaluation={"candidates": 20}), root)
    planted = metrics["planted"][ALL]
    assert set(metrics["baselines"]["popularity"][ALL]) == set(planted)
    assert planted["sampled_mrr"] > evaluate(config, root)["planted"][ALL]["mrr"], "fewer negatives"
    assert planted["sampled_mrr"] > metrics["baselines"]["popularity"][ALL]["sampled_mrr"]


def test_a_network_that_was_not_generated_has_none(trained: tuple[Config, str]) -> None:
    assert "planted" not in evaluate(*trained)


def test_equal_rates_share_a_rank() -> None:
    """One community, drawn from a seed whose rates are replaced by equal ones: 4 other tails make rank 1 + 4/2."""
    settings = Generate(users=4, tweets=5, communities=1, edges_per_user=1)
    schema = Schema({"user": 4, "tweet": 5}, [])
    ranker = PlantedRates(settings, schema, {"user": np.arange(4), "tweet": np.arange(5)})
    ranker._rates = lambda _queries, _rel, index, answer: np.full(np.broadcast_shapes(index.shape, answer.shape), 0.05)  # type: ignore[method-assign]
    one = np.array([1])
    queries = FilteredQueries("rhs", one, one, np.array([0]), np.array([2]), one, np.array([False]))
    ranks = ranker.among(CandidateSet("rhs", "tweet", one, 5), 1)(queries)
    assert ranks.rank.tolist() == [3.0]
    assert ranks.list_rank.tolist() == [3.0]


def test_the_optimum_stands_beside_the_result(run: tuple[Config, str]) -> None:
    config, root = run
    metrics = evaluate(config, root)
    page = Path(root, "evaluation/report.html").read_text()
    assert "planted optimum" in page
    assert f"{metrics['planted'][ALL]['mrr']:.4f}" in page
