"""Node frequencies, compared with a plain dictionary."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from twhin_core.config import Relation
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import Frequencies, count_ends, end
from twhin_core.schema import Schema

RELATIONS = [Relation(name="follow", lhs="user", rhs="user"), Relation(name="fav", lhs="user", rhs="tweet")]
SCHEMA = Schema({"user": 50, "tweet": 20}, RELATIONS)


def make_edges(count: int) -> Edges:
    rng = np.random.default_rng(0)
    rel = rng.integers(2, size=count)
    rhs = (rng.random(count) ** 3 * np.where(rel == 0, 50, 20)).astype(np.int64)
    return Edges(rng.integers(50, size=count), rel, rhs, rng.random(count).astype(np.float32))


def plainly(edges: Edges) -> Counter[tuple[int, str, int]]:
    counted: Counter[tuple[int, str, int]] = Counter()
    for lhs, rel, rhs in zip(edges.lhs, edges.rel, edges.rhs, strict=True):
        counted.update([(int(rel), "lhs", int(lhs)), (int(rel), "rhs", int(rhs))])
    return counted


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_every_end_is_counted_once_for_any_chunks(chunk: int) -> None:
    edges = make_edges(500)
    chunks = (edges.take(slice(start, start + chunk)) for start in range(0, 500, chunk))
    ends, counted = count_ends(chunks, SCHEMA), plainly(edges)
    assert len(ends.key) == len(counted), "only what occurs takes memory"
    for rel in range(2):
        for side in ("lhs", "rhs"):
            group = end(np.array([rel]), side)
            expected = [counted[rel, side, node] for node in range(50)]
            assert ends.of(group, np.arange(50)).tolist() == expected
            assert ends.totals(4)[group].tolist() == [sum(expected)]


def test_counts_of_merged_groups_are_added_up() -> None:
    edges = make_edges(500)
    counted = plainly(edges)
    degrees = count_ends([edges], SCHEMA).regrouped(np.array([0, 0, 0, 1]))
    users = [counted[0, "lhs", node] + counted[0, "rhs", node] + counted[1, "lhs", node] for node in range(50)]
    tweets = [counted[1, "rhs", node] for node in range(20)]
    assert degrees.of(np.zeros(50, np.int64), np.arange(50)).tolist() == users
    assert degrees.of(np.ones(20, np.int64), np.arange(20)).tolist() == tweets
    assert degrees.totals(2).tolist() == [sum(users), sum(tweets)]


def test_no_edges_give_no_counts() -> None:
    ends = count_ends([], SCHEMA)
    assert isinstance(ends, Frequencies)
    assert ends.totals(4).tolist() == [0, 0, 0, 0]
