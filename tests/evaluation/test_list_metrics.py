"""Figures of lists: by hand, against plain Python on drawn lists, and the laws that they obey."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.evaluation.list_metrics import (
    accuracy,
    coverage,
    diversity,
    gini,
    novelty,
    popularity,
    self_information,
)

LOG = math.log2


def test_accuracy_by_hand() -> None:
    # Of three answers the second and the fourth candidate are two; of one answer, the first; of two, none.
    hits = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    found = accuracy(hits, np.array([3, 1, 2]), [1, 2, 4])
    expected = {
        "recall@1": [0, 1, 0], "recall@2": [1 / 3, 1, 0], "recall@4": [2 / 3, 1, 0],
        "hit_rate@1": [0, 1, 0], "hit_rate@2": [1, 1, 0], "hit_rate@4": [1, 1, 0],
        "ndcg@1": [0, 1, 0], "ndcg@2": [(1 / LOG(3)) / (1 + 1 / LOG(3)), 1, 0],
        "ndcg@4": [(1 / LOG(3) + 1 / LOG(5)) / (1 + 1 / LOG(3) + 1 / 2), 1, 0],
        "map@1": [0, 1, 0], "map@2": [(1 / 2) / 2, 1, 0], "map@4": [(1 / 2 + 2 / 4) / 3, 1, 0],
    }  # fmt: skip
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].tolist() == pytest.approx(values), name


def test_a_list_shorter_than_k_counts_as_it_is() -> None:
    found = accuracy(np.array([[True, False]]), np.array([4]), [1, 10])
    assert found["recall@10"] == pytest.approx([1 / 4])
    assert found["map@10"] == pytest.approx([1 / 4])
    assert found["ndcg@10"] == pytest.approx([1 / sum(1 / LOG(1 + rank) for rank in range(1, 5))])


@given(
    lists=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5),
    more=st.integers(1, 8),
    at=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(sorted),
)
@settings(max_examples=60)
def test_accuracy_is_that_of_plain_python(lists: list[list[bool]], more: int, at: list[int]) -> None:
    answers = [sum(of) + more for of in lists]
    found = accuracy(np.array(lists), np.array(answers), at)
    for k, (user, of) in itertools.product(at, enumerate(lists)):
        ranks = [rank for rank, hit in enumerate(of[:k], 1) if hit]
        most = min(k, answers[user])
        expected = {
            "recall": len(ranks) / answers[user],
            "hit_rate": float(bool(ranks)),
            "ndcg": sum(1 / LOG(1 + rank) for rank in ranks) / sum(1 / LOG(1 + rank) for rank in range(1, most + 1)),
            "map": sum(place / rank for place, rank in enumerate(ranks, 1)) / most,
        }
        assert {name: found[f"{name}@{k}"][user] for name in expected} == pytest.approx(expected)
        assert found[f"map@{k}"][user] <= found[f"hit_rate@{k}"][user]


def test_a_candidate_of_half_of_the_edges_has_one_bit() -> None:
    assert self_information(np.array([7, 3, 3, 0, 0, 0])).tolist() == pytest.approx(
        [LOG(19 / 8), LOG(19 / 4), LOG(19 / 4), LOG(19), LOG(19), LOG(19)]
    )
    assert self_information(np.array([3, 1, 0, 0])).tolist() == [1, 2, 3, 3]


def test_novelty_is_the_mean_of_what_is_there() -> None:
    information = np.array([[1.0, 2, 9], [4, 9, 9], [9, 9, 9]])
    is_there = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    found = novelty(information, is_there, [1, 2, 5])
    assert found["novelty@1"].tolist()[:2] == [1, 4]
    assert found["novelty@2"].tolist()[:2] == found["novelty@5"].tolist()[:2] == [1.5, 4]
    assert np.isnan(found["novelty@5"][2])


@given(
    lists=st.lists(st.lists(st.integers(0, 40), max_size=6), min_size=1, max_size=5),
    at=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(sorted),
)
@settings(max_examples=60)
def test_popularity_is_the_mean_of_the_edges(lists: list[list[int]], at: list[int]) -> None:
    edges = np.array([of + [99] * (7 - len(of)) for of in lists])
    is_there = np.arange(7) < np.array([[len(of)] for of in lists])
    found = popularity(edges, is_there, at)
    assert set(found) == {f"popularity@{k}" for k in at}
    for k, (user, of) in itertools.product(at, enumerate(lists)):
        value = found[f"popularity@{k}"][user]
        assert value == pytest.approx(sum(of[:k]) / len(of[:k])) if of else np.isnan(value)


@given(data=st.data())
@settings(max_examples=40)
def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs(data: st.DataObject) -> None:
    users, k, dim = (data.draw(st.integers(1, most)) for most in (4, 6, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    vectors = rng.normal(size=(users, k, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    vectors[rng.random((users, k)) < 0.2] = 0  # nodes that were not trained
    lengths = rng.integers(0, k + 1, users)
    at = [1, 2, 4, 8]
    found = diversity(vectors, np.arange(k) < lengths[:, None], at)
    for user, of in itertools.product(range(users), at):
        listed = vectors[user, : min(of, lengths[user])].astype(float)
        pairs = [float(one @ other) for one, other in itertools.combinations(listed, 2)]
        value = found[f"diversity@{of}"][user]
        assert np.isnan(value) if not pairs else value == pytest.approx(1 - sum(pairs) / len(pairs), abs=1e-6)


@pytest.mark.parametrize(
    ("times", "candidates", "value"),
    [
        ([5, 5, 5, 5], 4, 0),
        ([1], 1, 0),
        ([], 7, 0),
        ([9], 4, 3 / 4),  # 1 - 1 / candidates, if all lists have the same one
        ([1, 3], 2, 1 / 4),
        ([1, 2, 3], 3, 2 / 9),
        ([3, 3], 4, 1 / 2),
    ],
)
def test_gini_by_hand(times: list[int], candidates: int, value: float) -> None:
    assert gini(np.array(times, np.int64), candidates) == pytest.approx(value)


@given(times=st.lists(st.integers(1, 50), max_size=12), others=st.integers(1, 9), factor=st.integers(2, 5))
@settings(max_examples=60)
def test_gini_is_the_mean_difference_and_obeys_its_laws(times: list[int], others: int, factor: int) -> None:
    every = [*times, *[0] * others]
    total = sum(every) or 1
    mean_difference = sum(abs(one - other) for one, other in itertools.product(every, every))
    found = gini(np.array(times, np.int64), len(every))
    assert found == pytest.approx(mean_difference / (2 * len(every) * total))
    assert found == pytest.approx(gini(factor * np.array(times[::-1], np.int64), len(every))), "of any order and scale"
    assert 0 <= found < 1
    assert coverage(np.array(times), len(every)) == len(times) / len(every)
