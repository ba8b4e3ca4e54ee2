"""Gates: which are missed and by how much, and names that name nothing."""

from __future__ import annotations

import pytest

from tests.conftest import SmallConfig
from twhin_core.config import Gate
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import check_names, missed

FILM = "/film/film/language.of./media.x"
METRICS = {
    "test": {"all": {"mrr": 0.08, "hits@10": 0.5, "edges": 20}, FILM: {"mrr": 0.25}},
    "baselines": {"random": {"all": {"mrr": 0.001}}},
    "checkpoint": 100,
}


@pytest.mark.parametrize(
    ("path", "gate", "sentence"),
    [
        ("test.all.mrr", Gate(min=0.1), "test.all.mrr is 0.08, 0.02 below its gate of at least 0.1"),
        ("test.all.mrr", Gate(max=0.05), "test.all.mrr is 0.08, 0.03 above its gate of at most 0.05"),
        ("test.all.edges", Gate(min=100), "test.all.edges is 20, 80 below its gate of at least 100"),
        (f"test.{FILM}.mrr", Gate(min=0.5), f"test.{FILM}.mrr is 0.25, 0.25 below its gate of at least 0.5"),
        ("test.all.mrr", Gate(min=0.07, max=0.09), None),
        ("test.all.mrr", Gate(min=0.08, max=0.08), None),
        ("test.all.hits@10", Gate(max=0.6), None),
    ],
)
def test_a_missed_gate_says_by_how_much(path: str, gate: Gate, sentence: str | None) -> None:
    assert missed({path: gate}, METRICS) == ([sentence] if sentence else [])


def test_every_missed_gate_is_named() -> None:
    gates = {"test.all.mrr": Gate(min=0.1), "test.all.hits@10": Gate(min=0.4), f"test.{FILM}.mrr": Gate(max=0.1)}
    assert [sentence.split(" is ")[0] for sentence in missed(gates, METRICS)] == ["test.all.mrr", f"test.{FILM}.mrr"]


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("test.all.mmr", "test.all.mrr"),
        ("test.al.mrr", "test.all.mrr"),
        ("validation.all.mrr", "test.all.mrr"),
        (f"test.{FILM}x.mrr", f"test.{FILM}.mrr"),
        ("mrr", "test.all.mrr"),
        ("checkpoint", "test.all.mrr"),
        ("baselines.random.mrr", "test.all.mrr"),
    ],
)
def test_a_gate_naming_no_metric_is_the_users_error(path: str, near: str) -> None:
    with pytest.raises(UserError, match="names no metric") as error:
        missed({path: Gate(min=0)}, METRICS)
    assert near in str(error.value)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("test.all.hits@11", "test.all.hits@10"),
        ("validation.all.mrr", "test.all.mrr"),
        ("test.favs.mrr", "test.fav.mrr"),
        ("test.mrr", "test.all.mrr"),
        ("nonsense", "test.all.mrr"),
    ],
)
def test_names_are_checked_by_the_config_alone(small_config: SmallConfig, path: str, near: str) -> None:
    with pytest.raises(UserError, match=f"evaluation.gates: {path} names no metric") as error:
        check_names(small_config(evaluation={"gates": {path: {"min": 0}}}))
    assert near in str(error.value)


@pytest.mark.parametrize("path", ["test.all.mrr", "test.fav.hits@3_lhs", "test.follow.recall@20", "test.all.auc"])
def test_names_of_metrics_to_come_pass(small_config: SmallConfig, path: str) -> None:
    check_names(small_config(evaluation={"gates": {path: {"min": 0}}}))


def test_relations_that_prepare_will_find_pass(small_config: SmallConfig) -> None:
    star = {"relations": [{"name": "*", "lhs": "user", "rhs": "user"}]}
    check_names(small_config(model=star, evaluation={"gates": {f"test.{FILM}.mrr": {"min": 0}}}))
    with pytest.raises(UserError, match="names no metric"):
        check_names(small_config(model=star, evaluation={"gates": {f"test.{FILM}.mmr": {"min": 0}}}))
    with pytest.raises(UserError, match="names no metric"):
        check_names(small_config(model=star, evaluation={"gates": {"test.mrr": {"min": 0}}}))


def test_a_relation_cannot_be_named_all(small_config: SmallConfig) -> None:
    with pytest.raises(UserError, match="'all' is the name of the figures over all relations"):
        check_names(small_config(model={"relations": [{"name": "all", "lhs": "user", "rhs": "user"}]}))
