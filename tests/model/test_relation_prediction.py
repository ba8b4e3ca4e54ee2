"""The second objective by hand, and the scores of all relations at once against those of single edges."""

from __future__ import annotations

import math

import pytest
import torch

from tests.model.test_operators import DIM, randomised
from tests.model.test_scorer import make_scorer
from twhin_core.config import Relation
from twhin_core.model.relation_prediction import RelationPrediction
from twhin_core.schema import Side

LHS, RHS = torch.tensor([[1.0, 2, 0, 0]]), torch.tensor([[3.0, 0, 4, 0]])
RELATIONS = [Relation(name=name, lhs="user", rhs="user") for name in ("follow", "fav")]


def test_by_hand() -> None:
    scorer = make_scorer()
    scorer.operator.get_parameter("translation").data[1, 0] = math.log(2)
    # (1, 2, 0, 0)·(3, 0, 4, 0) for relation 0, and 3·ln 2 more for relation 1: odds of 1 to 8.
    for rel, share in ((0, 1 / 9), (1, 8 / 9)):
        made = RelationPrediction(0.5, RELATIONS)(scorer, torch.tensor([rel]), torch.tensor([3.0]), LHS, RHS)
        assert made.item() == pytest.approx(-0.5 * 3 * math.log(share))


def test_an_inverse_predicts_from_the_other_side() -> None:
    scorer = make_scorer(reciprocal=True)
    assert scorer.inverse is not None
    scorer.inverse.get_parameter("translation").data[1, 1] = math.log(2)
    # The operators cannot tell the relations apart, ½; the inverses add 2·ln 2 of the lhs to relation 1, 4/5.
    made = RelationPrediction(1.0, RELATIONS)(scorer, torch.tensor([1]), torch.tensor([1.0]), LHS, RHS)
    assert made.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)


def test_relations_between_other_tables_are_no_candidates() -> None:
    scorer = make_scorer()
    relations = [RELATIONS[0], Relation(name="fav", lhs="user", rhs="tweet")]
    made = RelationPrediction(1.0, relations)(scorer, torch.tensor([0]), torch.tensor([1.0]), LHS, RHS)
    assert made.item() == 0


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_is_the_cross_entropy_of_each_edge_among_the_relations_of_its_tables(seed: int, reciprocal: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    tables = torch.randint(3, (40, 2), generator=generator).tolist()
    relations = [Relation(name=str(rel), lhs=f"t{lhs}", rhs=f"t{rhs}") for rel, (lhs, rhs) in enumerate(tables)]
    table = {"embedding_dim": DIM, "optimizer": {"sgd": {"lr": 0.1}}}
    scorer = make_scorer(
        reciprocal=reciprocal,
        embeddings={"tables": [{"name": f"t{number}", **table} for number in range(3)]},
        relations=[relation.model_dump() for relation in relations],
    )
    for parameter in scorer.parameters():
        parameter.data.normal_(generator=generator)
    lhs, rhs = torch.randn(2, 25, 4, DIM, generator=generator)
    rel, weight = torch.randint(40, (25, 4), generator=generator), torch.rand(25, 4, generator=generator)
    expected = torch.zeros(())
    for one, factor, x, y in zip(rel.flatten(), weight.flatten(), lhs.view(-1, DIM), rhs.view(-1, DIM), strict=True):
        same = [other for other in range(40) if tables[other] == tables[int(one)]]
        sides: list[Side] = ["rhs", "lhs"] if reciprocal else ["rhs"]
        for side in sides:
            scores = torch.stack([scorer.edges(side, torch.tensor(other), x, y) for other in same])
            share = scores.softmax(0)[same.index(int(one))]
            expected = expected - factor * share.log() / len(sides)
    made = RelationPrediction(2.0, relations)(scorer, rel, weight, lhs, rhs)
    torch.testing.assert_close(made, 2 * expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["translation", "diagonal", "complex_diagonal"])
def test_scores_of_all_relations_differ_as_the_edges_scores_do(kind: str) -> None:
    made = randomised(kind, kind, kind)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(5, DIM, generator=generator), torch.randn(5, DIM, generator=generator)
    one_by_one = torch.stack([(made(torch.full((5,), rel), x) * y).sum(-1) for rel in range(3)], 1)
    features, parameters = made.factors(x, y)
    together = features @ parameters.T
    torch.testing.assert_close(together - together[:, :1], one_by_one - one_by_one[:, :1])
