"""Explicit negatives of queries, against lists in plain Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.config import Relation
from twhin_core.config.relation import ExplicitNegatives
from twhin_core.data.edges import Edges
from twhin_core.data.negative_lists import NegativeLists, make_lists, pairs_of
from twhin_core.model.explicit_negatives import ExplicitSampler
from twhin_core.schema import Schema

ROWS = {"user": 6, "tweet": 9}
MOST = {0: 2, 2: 4}
"""By relation, the most explicit negatives per positive; relation 1 has none."""
RELATIONS = [
    Relation(name="fav", lhs="user", rhs="tweet", negatives=ExplicitNegatives(relation="dislike", per_positive=2)),
    Relation(name="reply", lhs="user", rhs="tweet"),
    Relation(
        name="follow", lhs="user", rhs="user", negatives=ExplicitNegatives(relation="block", per_positive=4, share=0.5)
    ),
    Relation(name="dislike", lhs="user", rhs="tweet"),
    Relation(name="block", lhs="user", rhs="user"),
]
SCHEMA = Schema(ROWS, RELATIONS)
HOLDS = {0: 3, 2: 4}

Lists = dict[tuple[int, int], set[int]]


def lists_of(given: Lists, parts: int = 1) -> NegativeLists:
    edges = [(HOLDS[rel], lhs, rhs) for (rel, lhs), nodes in given.items() for rhs in nodes][::-1]
    made = []
    for part in range(parts):
        rel, lhs, rhs = np.array(edges[part::parts], np.int64).reshape(-1, 3).T
        made.append(pairs_of([Edges(lhs, rel, rhs, np.ones(len(rel), np.float32))], SCHEMA))
    return make_lists(made, SCHEMA)


given_lists = st.dictionaries(
    st.tuples(st.sampled_from([0, 2]), st.integers(0, 5)), st.sets(st.integers(0, 5), min_size=1), max_size=8
)


@settings(max_examples=30)
@given(given_lists, st.integers(1, 3), st.integers(0, 99))
def test_every_query_gets_its_own_and_as_many_as_there_are(lists: Lists, parts: int, seed: int) -> None:
    sampler = ExplicitSampler(SCHEMA, lists_of(lists, parts))
    slots = [(rel, lhs, answer) for rel in range(3) for lhs in range(6) for answer in (0, 4)]
    rel, lhs, answer = torch.tensor(slots).view(2, -1, 3).unbind(-1)
    chosen = sampler.choose(rel, lhs, answer, torch.Generator().manual_seed(seed))
    assert chosen.node.shape == chosen.is_there.shape == (2, 18, 4)
    for (of, query, true), nodes, there, share in zip(
        slots, chosen.node.flatten(0, 1).tolist(), chosen.is_there.flatten(0, 1), chosen.share.flatten(), strict=True
    ):
        listed = lists.get((of, query), set())
        found = [node for node, is_there in zip(nodes, there.tolist(), strict=True) if is_there]
        assert len(set(found)) == len(found)
        assert set(found) <= listed - {true}
        most = min(MOST.get(of, 0), len(listed))
        assert most - (true in listed) <= len(found) <= most  # the answer may be among those that are chosen
        assert len(listed) > MOST.get(of, 0) or set(found) == listed - {true}
        assert [node for node, is_there in zip(nodes, there.tolist(), strict=True) if not is_there].count(true) == (
            4 - len(found)
        )
        assert share == pytest.approx({0: 0.2, 1: 0.0, 2: 0.5}[of])


def test_each_of_a_long_list_is_as_likely_as_any_other() -> None:
    sampler = ExplicitSampler(SCHEMA, lists_of({(0, 3): {1, 2, 4, 5, 8}}))
    rel, lhs = torch.zeros(1, 5000, dtype=torch.int64), torch.full((1, 5000), 3)
    chosen = sampler.choose(rel, lhs, torch.zeros_like(rel), torch.Generator().manual_seed(1))
    counts = Counter(chosen.node[chosen.is_there].tolist())
    assert sum(counts.values()) == 10_000
    assert set(counts) == {1, 2, 4, 5, 8}
    assert all(abs(count - 2000) < 5 * 2000**0.5 for count in counts.values())


def test_the_lists_of_queries_are_found_on_the_host_too() -> None:
    lists = lists_of({(0, 1): {5, 2}, (2, 1): {0}, (0, 5): {7}})
    first, count = lists.of(np.array([3, 3, 4, 3, 4]), np.array([1, 0, 1, 5, 5]))
    found = [lists.node[start : start + many].tolist() for start, many in zip(first, count, strict=True)]
    assert found == [[2, 5], [], [0], [7], []]
