"""GAUC against pairs counted one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.graphs import TableCheckpoint, model_config, schema_of, to_edges
from twhin_core.config.relation import ExplicitNegatives
from twhin_core.data.negative_lists import make_lists, pairs_of
from twhin_core.evaluation import group_auc as module
from twhin_core.evaluation.metrics import Figures
from twhin_core.schema import Schema

SIZES = {"user": 4, "tweet": 6}
RELATIONS = [
    ("fav", "user", "tweet"),
    ("follow", "user", "user"),
    ("dislike", "user", "tweet"),
    ("block", "user", "user"),
]
CONFIG = model_config(SIZES, RELATIONS, dim=4)
OF = {"fav": "dislike", "follow": "block"}
SCHEMA = Schema(
    SIZES,
    [
        of.model_copy(update={"negatives": ExplicitNegatives(relation=OF[of.name]) if of.name in OF else None})
        for of in schema_of(CONFIG).relations
    ],
)
Triple = tuple[int, int, int]


def checkpoint_of(scores: npt.NDArray[np.float32]) -> TableCheckpoint:
    """A model that scores user and tweet by `scores` [4, 6], and two users by whether they are the same."""
    tables = {"user": torch.eye(4), "tweet": torch.from_numpy(scores).T.contiguous()}
    return TableCheckpoint(tables, torch.zeros(4, 4))


def found(checkpoint: TableCheckpoint, positive: list[Triple], negative: list[Triple]) -> Figures:
    scorer = checkpoint.scorer(CONFIG.model, SCHEMA.relations)
    tables = {name: checkpoint.rows(name) for name in SIZES}
    lists = make_lists([pairs_of([to_edges(negative)], SCHEMA)], SCHEMA)
    return module.group_auc(scorer, tables, SCHEMA, to_edges(positive), lists)


def test_by_hand() -> None:
    """User 0: tweet 0 (of score 5) beats 1 (3) and ties with 2 (5); user 1: tweet 3 (1) loses to 4 (2)."""
    scores = np.zeros((4, 6), np.float32)
    scores[0, [0, 1, 2]], scores[1, [3, 4]] = [5, 3, 5], [1, 2]
    positive, negative = [(0, 0, 0), (2, 0, 5), (1, 0, 3)], [(0, 2, 1), (0, 2, 2), (1, 2, 4), (3, 2, 0)]
    expected = {"gauc": (0.75 + 0.0) / 2}
    assert found(checkpoint_of(scores), positive, negative) == {"all": expected, "fav": expected}


def test_without_negatives_of_the_queries_there_is_no_figure() -> None:
    scores = np.ones((4, 6), np.float32)
    assert found(checkpoint_of(scores), [(0, 0, 0)], [(1, 2, 3)]) == {}


pairs = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1]), st.integers(0, 3)), min_size=1, max_size=14)


@settings(max_examples=40)
@given(pairs, pairs, st.lists(st.integers(0, 2), min_size=24, max_size=24), st.sampled_from([1, 3, 1000]))
def test_all_pairs(positive: list[Triple], listed: list[Triple], values: list[int], at_once: int) -> None:
    scores = np.array(values, np.float32).reshape(4, 6)
    negative = sorted({(lhs, rel + 2, rhs) for lhs, rel, rhs in listed})
    shares: dict[str, list[float]] = {"all": [], "fav": [], "follow": []}
    for lhs, rel, rhs in positive:
        of = scores[lhs] if rel == 0 else np.eye(4)[lhs]
        against = [of[node] for user, relation, node in negative if (user, relation) == (lhs, rel + 2)]
        if against:
            share = sum((of[rhs] > other) + (of[rhs] == other) / 2 for other in against) / len(against)
            shares["all"].append(share)
            shares["fav" if rel == 0 else "follow"].append(share)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS_AT_ONCE", at_once)
        figures = found(checkpoint_of(scores), positive, negative)
    assert {name: of["gauc"] for name, of in figures.items()} == pytest.approx(
        {name: np.mean(of) for name, of in shares.items() if of}
    )
