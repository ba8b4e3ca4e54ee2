"""The finders of the baselines, against plain Python on drawn graphs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twhin_core.config import Relation
from twhin_core.data.files import EdgeFiles
from twhin_core.errors import UserError
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.recommend import item_item
from twhin_core.recommend.baselines import PopularityFinder, RandomFinder
from twhin_core.recommend.finder import Finder, Found
from twhin_core.recommend.item_item import ItemItemFinder
from twhin_core.schema import Schema

USERS, ITEMS = 9, 12
SCHEMA = Schema(
    {"user": USERS, "item": ITEMS},
    [Relation(name="other", lhs="user", rhs="item"), Relation(name="like", lhs="user", rhs="item")],
)
Pairs = list[tuple[int, int]]
QUIET = Progress("", 1, "", quiet=True)

graphs = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), min_size=1, max_size=50)
subsets = st.none() | st.lists(st.integers(0, ITEMS - 1), min_size=1, unique=True).map(sorted)
left_out = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), unique=True, max_size=40)


def among(rows: list[int] | None) -> CandidateSet:
    size = ITEMS if rows is None else len(rows)
    return CandidateSet("rhs", "item", np.array([1]), size, None if rows is None else np.array(rows))


def files_of(edges: Pairs, folder: Path) -> EdgeFiles:
    """The edges as those of `like`, beside one of the other relation."""
    lhs, rhs = zip(*edges, (0, 0), strict=False)
    rel = [1] * len(edges) + [0]
    path = folder / "edges.parquet"
    columns = {"lhs": [*lhs], "rel": pa.array(rel, pa.int32()), "rhs": [*rhs]}
    pq.write_table(pa.table(columns), path)
    return EdgeFiles([str(path)], SCHEMA)


def find(finder: Finder, candidates: CandidateSet, without: Pairs) -> Found:
    """The lists of all users, last first."""
    rows = np.arange(USERS)[::-1].copy()
    pairs = np.array(without, np.int64).reshape(-1, 2)
    column, kept = candidates.columns(pairs[:, 1])
    return finder.find(rows, (USERS - 1 - pairs[kept, 0], column), QUIET)


def lists_of(found: Found) -> dict[int, list[tuple[int, float]]]:
    """(item, score) by user."""
    lists = {}
    for position, user in enumerate(reversed(range(USERS))):
        pairs = zip(found.rows[position].tolist(), found.scores[position].tolist(), strict=True)
        lists[user] = [(item, score) for item, score in pairs if item != NONE]
        assert len(lists[user]) == (found.rows[position] != NONE).sum()
        assert (found.rows[position][len(lists[user]) :] == NONE).all(), "nothing between candidates"
    return lists


def assert_best(found: Found, score: dict[tuple[int, int], float], k: int) -> None:
    """Each list has the k highest scores of its user; of equal ones, any."""
    for user, listed in lists_of(found).items():
        of_user = {item: value for (other, item), value in score.items() if other == user}
        assert [value for _, value in listed] == pytest.approx(sorted(of_user.values(), reverse=True)[:k], rel=1e-5)
        assert dict(listed) == pytest.approx({item: of_user[item] for item, _ in listed})
        assert len({item for item, _ in listed}) == len(listed)


def cosines(edges: Pairs) -> dict[tuple[int, int], float]:
    of = {item: {user for user, other in edges if other == item} for item in range(ITEMS)}
    return {
        (one, other): len(of[one] & of[other]) / math.sqrt(len(of[one]) * len(of[other]))
        for one, other in itertools.permutations(range(ITEMS), 2)
        if of[one] & of[other]
    }


def item_scores(edges: Pairs, rows: list[int] | None, without: Pairs) -> dict[tuple[int, int], float]:
    cosine, scores = cosines(edges), Counter[tuple[int, int]]()
    for user, known in set(edges):
        for item in range(ITEMS) if rows is None else rows:
            if (known, item) in cosine and (user, item) not in without:
                scores[user, item] += cosine[known, item]
    return scores


@given(edges=graphs, rows=subsets, without=left_out, k=st.integers(1, 15), at_once=st.sampled_from([1, 20, 1 << 22]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_item_item_scores_are_sums_of_cosines(
    edges: Pairs, rows: list[int] | None, without: Pairs, k: int, at_once: int, tmp_path: Path
) -> None:
    candidates = among(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_item, "PRODUCTS_AT_ONCE", at_once)
        finder = ItemItemFinder(files_of(edges, tmp_path), SCHEMA, 1, candidates, len(edges), k, 0, "1MB")
        found = find(finder, candidates, without)
    assert found.sources == ("item-item",)
    assert_best(found, item_scores(edges, rows, without), k)


@given(edges=graphs, seed=st.integers(0, 99))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_item_item_does_not_depend_on_the_numbers_of_items(edges: Pairs, seed: int, tmp_path: Path) -> None:
    new = np.random.default_rng(seed).permutation(ITEMS)
    scores = []
    for given_edges in (edges, [(user, int(new[item])) for user, item in edges]):
        finder = ItemItemFinder(files_of(given_edges, tmp_path), SCHEMA, 1, among(None), len(edges), 5, 0, "1MB")
        scores.append(find(finder, among(None), given_edges).scores)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_item_item_bounds_its_neighbors_and_the_answers_of_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges = [(user, item) for user in range(5) for item in range(user, 8)]
    monkeypatch.setattr(item_item, "NEIGHBORS", 2)
    finder = ItemItemFinder(files_of(edges, tmp_path), SCHEMA, 1, among(None), len(edges), 20, 0, "1MB")
    cosine = cosines(edges)
    listed = dict(lists_of(find(finder, among(None), []))[4])
    nearest = {
        known: sorted((of for of in range(ITEMS) if (known, of) in cosine), key=lambda of: (-cosine[known, of], of))[:2]
        for known in range(4, 8)
    }
    assert set(listed) == {of for each in nearest.values() for of in each}
    monkeypatch.setattr(item_item, "NEIGHBORS", 100)
    monkeypatch.setattr(item_item, "MOST_ANSWERS", 1)  # then no two items have a user in common
    finder = ItemItemFinder(files_of(edges, tmp_path), SCHEMA, 1, among(None), len(edges), 20, 0, "1MB")
    assert not any(lists_of(find(finder, among(None), [])).values())


def test_item_item_refuses_more_than_fits(tmp_path: Path) -> None:
    message = (
        r"evaluation.memory_limit: too small for the item-item baseline of the 1,000 edges of relation like; raise it, "
        r"or leave item-item out of evaluation.lists.baselines"
    )
    with pytest.raises(UserError, match=message):
        ItemItemFinder(files_of([(1, 1)], tmp_path), SCHEMA, 1, among(None), 1000, 5, 0, "80KB")


@given(edges=graphs, rows=subsets, without=left_out, k=st.integers(1, 15))
@settings(max_examples=40)
def test_popularity_lists_the_candidates_with_the_most_edges(
    edges: Pairs, rows: list[int] | None, without: Pairs, k: int
) -> None:
    count = np.bincount([item for _, item in edges], minlength=ITEMS)
    finder = PopularityFinder(among(rows), count, k, torch.device("cpu"))
    scores = {
        (user, item): float(count[item])
        for user, item in itertools.product(range(USERS), range(ITEMS) if rows is None else rows)
        if (user, item) not in without
    }
    found = find(finder, among(rows), without)
    assert found.sources == ("popularity",)
    assert_best(found, scores, k)


@given(rows=subsets, without=left_out, k=st.integers(1, 15), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_random_lists_are_full_distinct_and_repeatable(
    rows: list[int] | None, without: Pairs, k: int, seed: int
) -> None:
    finder = RandomFinder(among(rows), k, seed)
    found = find(finder, among(rows), without)
    for user, listed in lists_of(found).items():
        allowed = {item for item in (range(ITEMS) if rows is None else rows) if (user, item) not in without}
        items = [item for item, _ in listed]
        assert set(items) <= allowed
        assert len(set(items)) == len(items) == min(k, len(allowed))
    np.testing.assert_array_equal(find(finder, among(rows), without).rows, found.rows)


def test_each_candidate_is_drawn_as_often_and_all_are_shown() -> None:
    """A chi-squared test of 20,000 draws at every place of the list; 99.99 % of uniform draws pass."""
    count, users = 10, 20_000
    candidates = CandidateSet("rhs", "item", np.array([1]), count)
    none = np.empty(0, np.int64)
    found = RandomFinder(candidates, 3, 1).find(np.arange(users), (none, none), QUIET)
    for place in range(3):
        times = np.bincount(found.rows[:, place], minlength=count)
        assert (times > 0).all()
        assert ((times - users / count) ** 2 / (users / count)).sum() < 33.7  # 9 degrees of freedom
