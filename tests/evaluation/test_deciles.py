"""Deciles of answers: by hand, against plain Python on drawn answers, and the laws that they obey."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twhin_core.evaluation.deciles import Histogram, deciles

Answer = tuple[int, int | None]
"""The training edges of an answer, and its rank in the list of its user, if it is there."""

ANSWERS = st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(1, 9)), max_size=60)


def histogram(edges: Sequence[int]) -> Histogram:
    values, counts = np.unique(np.array(edges, np.int64), return_counts=True)
    return values, counts


def of_answers(answers: Sequence[Answer], at: Sequence[int]) -> list[dict[str, Any]]:
    hits = {k: histogram([edges for edges, rank in answers if rank is not None and rank <= k]) for k in at}
    return deciles(histogram([edges for edges, _ in answers]), hits)


def plain_deciles(answers: Sequence[Answer], at: Sequence[int]) -> list[dict[str, Any]]:
    """The definition: each cut is the nearest to its tenth that parts no answers with as many edges."""
    answers = sorted(answers, key=lambda of: of[0])
    most = len(answers)
    places = [0, *(end for end in range(1, most) if answers[end - 1][0] < answers[end][0]), most]
    cuts = {min(places, key=lambda end: (abs(10 * end - tenth * most), end)) for tenth in range(11)}
    groups = [answers[start:end] for start, end in itertools.pairwise(sorted(cuts))]
    return [
        {"from": group[0][0], "to": group[-1][0], "answers": len(group)}
        | {f"recall@{k}": sum(rank is not None and rank <= k for _, rank in group) / len(group) for k in at}
        for group in groups
    ]


def test_ties_stay_together() -> None:
    """Of 20 answers, the first seven tie: the cut after two of them goes to 0, which is nearer than 7; that after four
    and that after six go to 7.
    """
    answers: list[Answer] = [(3, 1), (3, 5), *[(3, None)] * 5, *((edges, 2) for edges in range(4, 17))]
    found = of_answers(answers, [1, 5])
    assert [(group["from"], group["to"], group["answers"]) for group in found] == [
        (3, 3, 7), (4, 4, 1), *((low, low + 1, 2) for low in range(5, 16, 2)),
    ]  # fmt: skip
    assert [group["recall@1"] for group in found] == [1 / 7, *[0] * 7]
    assert [group["recall@5"] for group in found] == [2 / 7, *[1] * 7]


@given(ANSWERS, st.lists(st.integers(1, 10), min_size=1, max_size=3, unique=True).map(sorted))
def test_groups_are_those_of_the_definition(answers: list[Answer], at: list[int]) -> None:
    assert of_answers(answers, at) == plain_deciles(answers, at)


@given(ANSWERS)
def test_no_answer_and_no_hit_is_lost(answers: list[Answer]) -> None:
    found = of_answers(answers, [4])
    assert sum(group["answers"] for group in found) == len(answers)
    hits = sum(rank is not None and rank <= 4 for _, rank in answers)
    assert sum(round(group["recall@4"] * group["answers"]) for group in found) == hits
    degrees = Counter(edges for edges, _ in answers)
    for group in found:
        assert group["answers"] == sum(degrees[edges] for edges in range(group["from"], group["to"] + 1))


@given(st.sets(st.integers(0, 10**6), min_size=10, max_size=80))
def test_without_ties_ten_groups_are_as_equal_as_can_be(edges: set[int]) -> None:
    sizes = [group["answers"] for group in of_answers([(of, None) for of in edges], [1])]
    assert len(sizes) == 10
    assert max(sizes) - min(sizes) <= 1
