"""Scores of vectors small enough to multiply by hand, and the two ways to score compared with each other."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from twhin_core.config import Model
from twhin_core.config import file as config_file
from twhin_core.model.scorer import Scorer
from twhin_core.schema import SIDES, Side


def make_scorer(**settings: Any) -> Scorer:
    tree = {
        "embeddings": {"tables": [{"name": "user", "embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}]},
        "relations": [{"name": name, "lhs": "user", "rhs": "user"} for name in ("follow", "fav")],
        "translation_optimizer": {"sgd": {"lr": 0.1}},
        **settings,
    }
    model = config_file.validate(Model, tree, "test")
    return Scorer(model, model.relations)


def set_relations(scorer: Scorer, operator: list[float], inverse: list[float] | None = None) -> None:
    """The vector of relation 1; relation 0 stays the identity."""
    scorer.operator.translation.data[1] = torch.tensor(operator)
    if inverse is not None:
        assert scorer.inverse is not None
        scorer.inverse.translation.data[1] = torch.tensor(inverse)


LHS, RHS, REL = torch.tensor([1.0, 2, 0, 0]), torch.tensor([3.0, 0, 4, 0]), torch.tensor(1)


def test_dot_by_hand() -> None:
    scorer = make_scorer()
    set_relations(scorer, [0, 0, 1, 5])
    # (1, 2, 0, 0) + (0, 0, 1, 5) = (1, 2, 1, 5); times (3, 0, 4, 0) is 3 + 4.
    assert scorer.edges("rhs", REL, LHS, RHS).item() == 7
    assert scorer.edges("lhs", REL, LHS, RHS).item() == 7


def test_cosine_by_hand() -> None:
    scorer = make_scorer(comparator="cos")
    set_relations(scorer, [0, 0, 2, 0])
    # |(1, 2, 2, 0)| = 3, |(3, 0, 4, 0)| = 5, product 3 + 8.
    assert scorer.edges("rhs", REL, LHS, RHS).item() == pytest.approx(11 / 15)


@pytest.mark.parametrize(("comparator", "expected"), [("squared_l2", -24), ("l2", -(24**0.5))])
def test_distances_by_hand(comparator: str, expected: float) -> None:
    scorer = make_scorer(comparator=comparator)
    set_relations(scorer, [0, 0, 0, 0])
    # (1, 2, 0, 0) - (3, 0, 4, 0) = (-2, 2, -4, 0).
    assert scorer.edges("rhs", REL, LHS, RHS).item() == pytest.approx(expected)
    assert scorer.edges("lhs", REL, LHS, RHS).item() == pytest.approx(expected)


def test_reciprocal_relations_move_the_rhs_of_queries_for_the_lhs() -> None:
    scorer = make_scorer(reciprocal=True)
    set_relations(scorer, [0, 0, 1, 5], [0, 10, 0, 0])
    assert scorer.edges("rhs", REL, LHS, RHS).item() == 7
    # (3, 0, 4, 0) + (0, 10, 0, 0) times (1, 2, 0, 0).
    assert scorer.edges("lhs", REL, LHS, RHS).item() == 23


@pytest.mark.parametrize(
    ("side", "comparator", "reciprocal"),
    list(itertools.product(SIDES, ("dot", "cos", "l2", "squared_l2"), (False, True))),
)
def test_candidates_score_as_the_edges_that_they_make(side: Side, comparator: str, reciprocal: bool) -> None:
    scorer = make_scorer(comparator=comparator, reciprocal=reciprocal)
    generator = torch.Generator().manual_seed(0)
    for parameter in scorer.parameters():
        parameter.data.normal_(generator=generator)
    nodes = torch.randn(3, 5, 4, generator=generator)
    candidates = torch.randn(3, 6, 4, generator=generator)
    rel = torch.tensor([0, 1, 0])[:, None].expand(3, 5)
    scores = scorer.candidates(side, rel, nodes, candidates)
    for chunk, query, candidate in itertools.product(range(3), range(5), range(6)):
        ends = nodes[chunk, query], candidates[chunk, candidate]
        lhs, rhs = ends if side == "rhs" else ends[::-1]
        edge = scorer.edges(side, rel[chunk, query], lhs, rhs)
        assert scores[chunk, query, candidate].item() == pytest.approx(edge.item(), abs=1e-5)
