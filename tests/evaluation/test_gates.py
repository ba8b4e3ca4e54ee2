"""Gates: which are missed and by how much, and names that name nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core.config import Gate
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import check_names, decide, missed

FILM = "/film/film/language.of./media.x"
METRICS: dict[str, Any] = {
    "test": {"all": {"mrr": 0.08, "hits@10": 0.5, "edges": 20}, FILM: {"mrr": 0.25}},
    "degrees": {
        "model": {"query": {"0": {"mrr": 0.01, "edges": 4}, "1000+": {"mrr": 0.5}}, "answer": {"1-9": {"mrr": 0.2}}},
        "previous": {"query": {"0": {"mrr": 0.05}}},
    },
    "baselines": {"random": {"all": {"mrr": 0.001}}, "previous": {"all": {"mrr": 0.1, "hits@10": 0.4}}},
    "checkpoint": 100,
}


def sentences(small_config: SmallConfig, gates: dict[str, Gate]) -> list[str]:
    """What a decision says of the gates that are missed."""
    stated = {path: gate.model_dump(exclude_none=True) for path, gate in gates.items()}
    decision = decide(small_config(evaluation={"gates": stated, "previous": "runs/before"}), METRICS)
    assert decision["passed"] == (missed(decision) == [])
    assert decision["checkpoint"] == 100
    return missed(decision)


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
        ("test.all.mrr", Gate(max_drop=0.03), None),
        (
            "test.all.mrr",
            Gate(max_drop=0.01),
            "test.all.mrr is 0.08, 0.02 below the previous 0.1; at most 0.01 is allowed",
        ),
        ("test.all.hits@10", Gate(max_drop=0), None),
        (
            "test.all.mrr",
            Gate(min=0.09, max_drop=0),
            "test.all.mrr is 0.08, 0.01 below its gate of at least 0.09 "
            "and 0.02 below the previous 0.1; at most 0 is allowed",
        ),
        ("test.degrees.query.1000+.mrr", Gate(min=0.4), None),
        (
            "test.degrees.query.0.mrr",
            Gate(max_drop=0.01),
            "test.degrees.query.0.mrr is 0.01, 0.04 below the previous 0.05; at most 0.01 is allowed",
        ),
        ("test.degrees.answer.1-9.mrr", Gate(max_drop=0.01), None),  # the earlier version has no such figure
        (
            "test.degrees.query.10-99.mrr",
            Gate(min=0),
            "test.degrees.query.10-99.mrr has no value: no held-out edge is in that bucket",
        ),
    ],
)
def test_a_missed_gate_says_by_how_much(small_config: SmallConfig, path: str, gate: Gate, sentence: str | None) -> None:
    assert sentences(small_config, {path: gate}) == ([sentence] if sentence else [])


def test_every_missed_gate_is_named(small_config: SmallConfig) -> None:
    gates = {"test.all.mrr": Gate(min=0.1), "test.all.hits@10": Gate(min=0.4), f"test.{FILM}.mrr": Gate(max=0.1)}
    said = [sentence.split(" is ")[0] for sentence in sentences(small_config, gates)]
    assert said == ["test.all.mrr", f"test.{FILM}.mrr"]


def test_the_decision_holds_values_bounds_and_reasons(small_config: SmallConfig) -> None:
    gates = {"test.all.mrr": {"min": 0.05, "max_drop": 0.01}, "test.all.hits@10": {"min": 0.4}}
    assert decide(small_config(evaluation={"gates": gates, "previous": "runs/before"}), METRICS) == {
        "passed": False,
        "checkpoint": 100,
        "gates": [
            {
                "metric": "test.all.mrr",
                "value": 0.08,
                "previous": 0.1,
                "bounds": {"min": 0.05, "max_drop": 0.01},
                "passed": False,
                "reason": "test.all.mrr is 0.08, 0.02 below the previous 0.1; at most 0.01 is allowed",
            },
            {
                "metric": "test.all.hits@10",
                "value": 0.5,
                "previous": 0.4,
                "bounds": {"min": 0.4},
                "passed": True,
                "reason": "test.all.hits@10 is 0.5, within its bounds",
            },
        ],
    }
    assert decide(small_config(), METRICS) == {"passed": True, "checkpoint": 100, "gates": []}


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
        ("test.degrees.query.2-9.mrr", "test.degrees.query.0.mrr"),
        ("test.degrees.query.0.mmr", "test.degrees.query.0.mrr"),
    ],
)
def test_a_gate_naming_no_metric_is_the_users_error(small_config: SmallConfig, path: str, near: str) -> None:
    with pytest.raises(UserError, match="names no metric") as error:
        sentences(small_config, {path: Gate(min=0)})
    assert near in str(error.value)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("test.all.hits@11", "test.all.hits@10"),
        ("validation.all.mrr", "test.all.mrr"),
        ("test.favs.mrr", "test.fav.mrr"),
        ("test.mrr", "test.all.mrr"),
        ("nonsense", "test.all.mrr"),
        ("test.degrees.query.1-10.mrr", "test.degrees.query.1-9.mrr"),
        ("test.degrees.answers.1-9.mrr", "test.degrees.answer.1-9.mrr"),
        ("test.degrees.answer.1-9.recall@20", "test.degrees.query.1-9.recall@20"),
        ("test.all.sampled_mrr", "test.all.mrr"),
    ],
)
def test_names_are_checked_by_the_config_alone(small_config: SmallConfig, path: str, near: str) -> None:
    with pytest.raises(UserError, match=f"evaluation.gates: {path} names no metric") as error:
        check_names(small_config(evaluation={"gates": {path: {"min": 0}}}))
    assert near in str(error.value)


@pytest.mark.parametrize("path", [
    "test.all.mrr", "test.fav.hits@3_lhs", "test.follow.recall@20", "test.all.auc", "test.degrees.answer.1000+.mrr_rhs",
    "test.degrees.query.0.recall@10", "test.fav.recall@50_lhs", "test.all.ndcg@10_rhs",
])  # fmt: skip
def test_names_of_metrics_to_come_pass(small_config: SmallConfig, path: str) -> None:
    check_names(small_config(evaluation={"gates": {path: {"min": 0}}}))


@pytest.mark.parametrize(
    ("drop", "difference", "reason"),
    [
        (0.01, -0.005, None), (0.01, 0.2, None), (0.01, -0.01, None), (0, 0.0, None),
        (0.01, -0.015, "0.015 below the previous 0.1; at most 0.01 is allowed"),
        (0, -0.001, "0.001 below the previous 0.1; at most 0 is allowed"),
    ],
)  # fmt: skip
def test_a_drop_is_that_of_the_relations_that_both_runs_have(
    small_config: SmallConfig, drop: float, difference: float, reason: str | None
) -> None:
    """Not of .08 and .1, which are means over different relations."""
    config = small_config(evaluation={"gates": {"test.all.mrr": {"max_drop": drop}}, "previous": "runs/before"})
    decision = decide(config, METRICS | {"differences": {"all": {"mrr": [difference, -1, 1]}}})
    assert missed(decision) == ([] if reason is None else [f"test.all.mrr is 0.08, {reason}"])


@pytest.mark.parametrize(
    "name", ["mrr", "mrr_lhs", "hits@3_rhs", "recall@20", "recall@20_lhs", "ndcg@50_rhs", "auc", "hits@10"]
)
def test_any_metric_may_be_the_headline(small_config: SmallConfig, name: str) -> None:
    check_names(small_config(evaluation={"headline": name}))
    check_names(small_config(evaluation={"headline": name, "candidates": 5}))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mmr", "mrr"), ("mrr_rsh", "mrr_rhs"), ("hits@11", "hits@10"), ("recall@21_lhs", "recall@20_lhs"),
        ("sampled_mrr", "mrr"), ("edges", "there are mrr"), ("all.mrr", "mrr"), ("auc_reference", "there are mrr"),
    ],
)  # fmt: skip
def test_a_headline_that_is_no_metric_is_refused(small_config: SmallConfig, name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"evaluation.headline: '{name}' is no metric; .*{near}"):
        check_names(small_config(evaluation={"headline": name}))


def test_relations_that_prepare_will_find_pass(small_config: SmallConfig) -> None:
    star = {"relations": [{"name": "*", "lhs": "user", "rhs": "user"}]}
    check_names(small_config(model=star, evaluation={"gates": {f"test.{FILM}.mrr": {"min": 0}}}))
    with pytest.raises(UserError, match="names no metric"):
        check_names(small_config(model=star, evaluation={"gates": {f"test.{FILM}.mmr": {"min": 0}}}))
    with pytest.raises(UserError, match="names no metric"):
        check_names(small_config(model=star, evaluation={"gates": {"test.mrr": {"min": 0}}}))


@pytest.mark.parametrize(("name", "what"), [("all", "over all relations"), ("degrees", "by degree")])
def test_a_relation_cannot_have_the_name_of_other_figures(small_config: SmallConfig, name: str, what: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is the name of the figures {what}"):
        check_names(small_config(model={"relations": [{"name": name, "lhs": "user", "rhs": "user"}]}))


def test_sampled_figures_have_names_of_their_own(small_config: SmallConfig) -> None:
    check_names(small_config(evaluation={"candidates": 10, "gates": {"test.all.sampled_mrr": {"min": 0}}}))
    with pytest.raises(UserError, match=r"test\.all\.mrr names no metric; near it: test\.all\.sampled_mrr"):
        check_names(small_config(evaluation={"candidates": 10, "gates": {"test.all.mrr": {"min": 0}}}))


def test_a_drop_needs_a_version_to_drop_from(small_config: SmallConfig) -> None:
    with pytest.raises(UserError, match=r"evaluation\.gates\.test\.all\.mrr\.max_drop: needs evaluation\.previous"):
        small_config(evaluation={"gates": {"test.all.mrr": {"max_drop": 0.01}}})
