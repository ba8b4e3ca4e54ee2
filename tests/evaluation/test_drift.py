"""Drift between two versions: by hand, against brute force over ids, and none between copies."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.test_previous import names, smaller
from tests.stages.test_evaluate import changed
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.evaluation.downstream import carry_over
from twhin_core.evaluation.drift import jaccard, rank_biased_overlap
from twhin_core.evaluation.gates import check_names, read_decision
from twhin_core.evaluation.logistic import auc
from twhin_core.stages.evaluate import evaluate

__all__ = ["smaller"]  # a fixture

lists = st.integers(1, 6).flatmap(
    lambda k: st.tuples(*(st.permutations(range(8)).map(lambda of: of[:k]) for _ in range(2)))
)


@given(lists)
@settings(max_examples=100)
def test_overlaps_are_those_of_the_definitions(pair: tuple[list[int], list[int]]) -> None:
    a, b = pair
    k, p = len(a), 0.9
    arrays = np.array([a]), np.array([b])
    assert jaccard(*arrays)[0] == pytest.approx(len(set(a) & set(b)) / len(set(a) | set(b)))
    agreement = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, k + 1)]
    expected = agreement[-1] * p**k + (1 - p) / p * sum(of * p**d for d, of in enumerate(agreement, 1))
    assert rank_biased_overlap(*arrays)[0] == pytest.approx(expected)


def test_rank_biased_overlap_by_hand() -> None:
    # The same first, the others swapped: agreements 1, 1/2, 1.
    found = rank_biased_overlap(np.array([[1, 2, 3]]), np.array([[1, 3, 2]]), p=0.5)[0]
    assert found == pytest.approx(1 * 0.125 + 1 * (0.5 + 0.5 * 0.25 + 0.125))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=20))
@settings(max_examples=100)
def test_the_auc_counts_all_pairs(drawn: list[tuple[int, bool]]) -> None:
    scores, is_positive = np.array([score for score, _ in drawn], float), np.array([flag for _, flag in drawn])
    if is_positive.all() or not is_positive.any():
        return
    pairs = [
        (high > low) + (high == low) / 2 for high, low in itertools.product(scores[is_positive], scores[~is_positive])
    ]
    assert auc(scores, is_positive) == pytest.approx(np.mean(pairs))


def test_a_classifier_keeps_its_auc_where_the_vectors_stay_and_loses_it_where_they_turn() -> None:
    rng = np.random.default_rng(0)
    is_edge = np.arange(2000) < 1000
    features = torch.from_numpy(rng.normal(size=(2000, 4)) + is_edge[:, None] * [1.5, 0, 0, 0])
    same = carry_over(features, features, is_edge, np.random.default_rng(1))
    assert same is not None
    assert same.now == same.before
    assert same.before == pytest.approx(0.856, abs=0.02)  # Φ(1.5 / √2), of two normal distributions 1.5 apart
    turned = carry_over(features, -features, is_edge, np.random.default_rng(1))
    assert turned is not None
    assert turned.now == pytest.approx(1 - same.before, abs=1e-12)
    assert carry_over(features[:60], features[:60], np.arange(60) < 10, np.random.default_rng(1)) is None


def test_a_copy_has_not_moved(trained: tuple[Config, str], tmp_path: Path) -> None:
    config, root = trained
    shutil.copytree(root, tmp_path / "before")
    drift = evaluate(changed(config, previous=str(tmp_path / "before")), root)["drift"]
    assert {name: figures["all"]["nodes"] for name, figures in drift["tables"].items()} == {"user": 40, "tweet": 30}
    for buckets in drift["tables"].values():
        assert sum(of["nodes"] for bucket, of in buckets.items() if bucket != "all") == buckets["all"]["nodes"]
        for figures in buckets.values():
            moved = {name: value for name, value in figures.items() if name != "nodes"}
            assert moved == pytest.approx({"cosine": 1, "distance": 0, "neighbors@10": 1, "rbo@10": 1}, abs=1e-6)
    assert set(drift["relations"]) == {"follow", "fav"}
    for figures in drift["relations"].values():
        assert figures["answers@10"] == 1


def vectors(root: str, table: str) -> dict[str, np.ndarray[Any, Any]]:
    checkpoint = newest(root)
    assert checkpoint is not None
    rows = checkpoint.rows(table)
    return dict(zip(names(root, table), rows.read(0, rows.size).double().numpy(), strict=True))


def unit(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return vector / np.linalg.norm(vector)


def test_versions_of_other_rows_and_relations_are_compared_by_id(
    trained: tuple[Config, str], smaller: tuple[Config, str]
) -> None:
    config, root = trained
    config = changed(config, previous=smaller[1], drift={"k": 4})
    drift = evaluate(config, root)["drift"]
    for table in ("user", "tweet"):
        now, before = vectors(root, table), vectors(smaller[1], table)
        both = sorted(now.keys() & before.keys())
        figures = drift["tables"][table]["all"]
        assert figures["nodes"] == len(both)
        assert figures["cosine"] == pytest.approx(np.mean([unit(now[name]) @ unit(before[name]) for name in both]))
        moved = [np.linalg.norm(now[name] - before[name]) / np.linalg.norm(before[name]) for name in both]
        assert figures["distance"] == pytest.approx(np.mean(moved))
        shares = []
        for name in both:
            near = [
                set(sorted(set(both) - {name}, key=lambda other: -unit(of[name]) @ unit(of[other]))[:4])
                for of in (now, before)
            ]
            shares.append(len(near[0] & near[1]) / len(near[0] | near[1]))
        assert figures["neighbors@4"] == pytest.approx(np.mean(shares))
    assert set(drift["relations"]) == {"fav"}, "the earlier version has no other"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("drift.user.mrr", r"names no metric; near it: drift\.user\."),
        ("drift.users.neighbors@10", r"names no metric; near it: drift\.user\.neighbors@10"),
        ("drift.user.neighbors@5", r"names no metric; near it: drift\.user\.neighbors@10"),
        ("drift.fav.cosine", "names no metric"),
        ("drift.all.cosine", "names no metric"),
    ],
)
def test_a_gate_on_drift_that_names_nothing_is_refused(trained: tuple[Config, str], path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_names(changed(trained[0], previous="before", gates={path: {"min": 0.5}}))


def test_a_gate_on_drift_needs_an_earlier_version(trained: tuple[Config, str]) -> None:
    with pytest.raises(UserError, match=r"drift\.user\.cosine needs evaluation\.previous"):
        check_names(changed(trained[0], gates={"drift.user.cosine": {"min": 0.5}}))


def test_gates_on_drift_are_decided(trained: tuple[Config, str], smaller: tuple[Config, str]) -> None:
    config, root = trained
    gates = {
        "drift.user.neighbors@10": {"min": 0.99},
        "drift.user.distance": {"max": 1e6},
        "drift.follow.answers@10": {"min": 0.0},
    }
    drift = evaluate(changed(config, previous=smaller[1], gates=gates), root)["drift"]
    decision = read_decision(root)
    assert decision is not None
    near, distance, answers = decision["gates"]
    assert (near["passed"], near["value"]) == (False, drift["tables"]["user"]["all"]["neighbors@10"])
    assert (distance["passed"], distance["value"]) == (True, drift["tables"]["user"]["all"]["distance"])
    assert answers["reason"] == "drift.follow.answers@10 has no value: the earlier version has too little of it"
