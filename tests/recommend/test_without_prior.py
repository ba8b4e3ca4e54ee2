"""Lists with the prior and without it, against plain Python on the run's own files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import SmallConfig, small_configs
from tests.recommend.test_lists import Graph
from tests.recommend.test_measure import (
    BASELINES,
    TABLES,
    Expected,
    assert_conserved,
    assert_measured,
    measured,
    with_lists,
)
from twhin_core.config import Config
from twhin_core.report.summary import list_metrics
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

WEIGHT, TEMPERATURE = 2.0, 0.5
SOURCES = ["model", "without prior", *BASELINES]


class GraphWithPrior(Graph):
    """Scores with weight · temperature · log(p · rows); every node has one edge more than it has."""

    def best(
        self, relation: str, table: str, user: str, left_out: set[tuple[str, str]], k: int, among: set[str]
    ) -> list[tuple[str, float]]:
        train, rows = self.known(relation, ("train",)), len(self.tables[table])
        degree = Counter(item for _, item in train)

        def prior(item: str) -> float:
            return WEIGHT * TEMPERATURE * math.log((degree[item] + 1) / (len(train) + rows) * rows)

        everything = super().best(relation, table, user, left_out, len(among), among)
        return sorted(((item, score + prior(item)) for item, score in everything), key=lambda of: -of[1])[:k]


def trained(small_config: SmallConfig, root: Path, **model: Any) -> tuple[Config, str]:
    config = small_config(model=model)
    prepare(config, str(root))
    train(config, str(root))
    return config, str(root)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, str]:
    folder = tmp_path_factory.mktemp("prior")
    prior = {"weight": WEIGHT, "sides": ["rhs"]}
    return trained(small_configs(folder), folder / "run", prior=prior, temperature=TEMPERATURE)


@pytest.mark.parametrize("relation", ["fav", "follow"])
def test_the_same_vectors_make_lists_without_the_prior(run: tuple[Config, str], relation: str) -> None:
    config, root = run
    found = measured(with_lists(config, {relation: {"k": 8}}, lists={"k": [2, 8]}), root)[relation]
    assert [list(found[part]) for part in ("figures", "intervals", "degrees", "deciles", "sources")] == [SOURCES] * 5
    assert_conserved(found)
    for source, graph in (("model", GraphWithPrior(*run)), ("without prior", Graph(*run))):
        left_out = graph.known(relation, ("train", "validation"))
        if relation == "follow":
            left_out |= {(user, user) for user in graph.tables["user"]}
        expected = Expected(graph, relation, "test", 8, set(graph.tables[TABLES[relation]]), left_out)
        parts = ("figures", "intervals", "degrees", "deciles", "sources")
        only = {
            part: {"model": found[part][source]} | {name: found[part][name] for name in BASELINES} for part in parts
        }
        assert_measured(found | only, expected, [2, 8])
    popularity = [found["figures"][source]["popularity@8"] for source in ("popularity", *SOURCES[:2])]
    assert popularity == sorted(popularity, reverse=True), "what the prior trades"


def test_a_prior_of_nothing_changes_nothing(small_config: SmallConfig, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    config, root = trained(small_config, tmp_path / "run", prior={"weight": 0})
    found = measured(with_lists(config, {"fav": {"k": 10}, "follow": {"k": 5, "mixture": {"clusters": 3}}}), root)
    for of in found.values():
        assert list(of["figures"]) == SOURCES
        for part in ("figures", "degrees", "deciles", "sources", "intervals"):
            assert of[part]["without prior"] == of[part]["model"]


def test_mixtures_search_clusters_without_the_prior_too(run: tuple[Config, str]) -> None:
    pytest.importorskip("faiss")
    config, root = run
    mixture = {"clusters": 3, "share": 1}
    found = measured(with_lists(config, {"fav": {"k": 5, "mixture": mixture}}, lists={"k": [5]}), root)["fav"]
    assert set(found["sources"]["without prior"]) == set(found["sources"]["model"]) == {"vector", "cluster"}
    assert found["figures"]["without prior"]["popularity@5"] < found["figures"]["model"]["popularity@5"]


def test_a_prior_of_the_lhs_alone_is_in_no_list(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = trained(small_config, tmp_path / "run", prior={"sides": ["lhs"]})
    assert list(measured(with_lists(config, {"fav": {"k": 5}}), root)["fav"]["figures"]) == ["model", *BASELINES]


def test_the_table_has_a_column_for_it(run: tuple[Config, str]) -> None:
    config, root = run
    metrics = evaluate(with_lists(config, {"fav": {"k": 5}}, lists={"k": [5]}), root)
    (listing,) = [of for of in list_metrics(metrics) if of.name == "lists.fav"]
    assert "without_prior" in [name for column in listing.columns for name in column.names]
    values = {row[0]: row[3] for row in listing.rows}
    assert values["recall@5"] == metrics["lists"]["relations"]["fav"]["figures"]["without prior"]["recall@5"]
    assert np.isfinite(values["popularity@5"])
