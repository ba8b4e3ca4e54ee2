"""Held-out edges by query and labels by value, against plain loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.data.edges import Edges
from twhin_core.ranking.queries import held_out, split_by
from twhin_core.schema import SIDES

TRIPLES = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=40)


@settings(max_examples=100)
@given(st.lists(st.integers(-3, 5), max_size=30))
def test_labels_are_split_by_value(labels: list[int]) -> None:
    found = [(label, indices.tolist()) for label, indices in split_by(np.array(labels, np.int64))]
    assert found == [(value, [at for at, of in enumerate(labels) if of == value]) for value in sorted(set(labels))]


@settings(max_examples=100)
@given(TRIPLES, st.data())
def test_the_answers_of_some_queries_are_those_that_belong_to_them(
    triples: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    lhs, rel, rhs = np.array(triples, np.int64).T
    for side in SIDES:
        held = held_out(Edges(lhs, rel, rhs, np.ones(len(lhs), np.float32)), side)
        chosen = data.draw(st.lists(st.integers(0, held.queries - 1), unique=True))
        found = held.answers_of(np.array(sorted(chosen), np.int64))
        assert found.tolist() == [answer for answer in range(len(held)) if held.query[answer] in chosen]
