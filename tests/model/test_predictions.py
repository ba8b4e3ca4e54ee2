"""What an edge predicts of its nodes: by hand for each operator, and as the point where it scores highest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.model.test_scorer import make_scorer
from twhin_core.model.scorer import Scorer

DIM = 4
KNOWN = torch.tensor([1.0, 2.0, 3.0, 4.0])

# The parameters of a relation, and what (1, 2, 3, 4) on the rhs predicts of the lhs: by the exact inverse, and by the
# transpose, which the dot product takes.
LHS_BY_HAND: dict[str, tuple[list[float] | list[list[float]], list[float], list[float]]] = {
    "identity": ([], [1, 2, 3, 4], [1, 2, 3, 4]),
    "translation": ([1, 0, -1, 2], [0, 2, 4, 2], [0, 2, 4, 2]),
    "diagonal": ([2, -1, 0.5, 4], [0.5, -2, 6, 1], [2, -2, 1.5, 16]),
    # (1 + 3i) / (1 + 1i) = 2 + 1i and (2 + 4i) / (0 + 2i) = 2 - 1i; times the conjugates 4 + 2i and 8 - 4i.
    "complex_diagonal": ([1, 0, 1, 2], [2, 2, 1, -1], [4, 8, 2, -4]),
    # x -> (x1, 2 x3, x0, x2 / 2), so the inverse of (1, 2, 3, 4) is (3, 1, 8, 1).
    "linear": ([[0, 1, 0, 0], [0, 0, 0, 2], [1, 0, 0, 0], [0, 0, 0.5, 0]], [3, 1, 8, 1], [3, 1, 2, 4]),
    # As above, of (1, 2, 3, 4) - (1, -2, 2, 3) = (0, 4, 1, 1).
    "affine": (
        [[0, 1, 0, 0, 1], [0, 0, 0, 2, -2], [1, 0, 0, 0, 2], [0, 0, 0.5, 0, 3]], [1, 0, 2, 2], [1, 0, 0.5, 8]
    ),
}  # fmt: skip


def scorer_of(kind: str, comparator: str, parameters: object = None, reciprocal: bool = False) -> Scorer:
    relations = [{"name": name, "lhs": "user", "rhs": "user", "operator": kind} for name in ("other", "r")]
    made = make_scorer(relations=relations, comparator=comparator, reciprocal=reciprocal)
    if parameters is not None:
        made.operator.get_parameter(kind).data[1] = torch.tensor(parameters)
    return made


@pytest.mark.parametrize("comparator", ["dot", "cos", "l2", "squared_l2"])
@pytest.mark.parametrize("kind", LHS_BY_HAND)
def test_of_the_lhs_by_hand(kind: str, comparator: str) -> None:
    parameters, exact, transposed = LHS_BY_HAND[kind]
    found = scorer_of(kind, comparator, parameters).predictions("lhs", torch.tensor([1, 0]), KNOWN.expand(2, DIM))
    assert found[0].tolist() == pytest.approx(transposed if comparator == "dot" else exact, abs=1e-5)
    assert found[1].tolist() == pytest.approx(KNOWN.tolist(), abs=1e-6), "an untrained relation is the identity"


@pytest.mark.parametrize("kind", LHS_BY_HAND)
def test_of_the_rhs_it_is_the_image(kind: str) -> None:
    parameters, exact, _ = LHS_BY_HAND[kind]
    found = scorer_of(kind, "cos", parameters).predictions("rhs", torch.tensor([1]), torch.tensor([exact]).float())
    assert found[0].tolist() == pytest.approx(KNOWN.tolist(), abs=1e-5)


@pytest.mark.parametrize("comparator", ["cos", "l2", "squared_l2"])
@pytest.mark.parametrize("kind", LHS_BY_HAND)
@pytest.mark.parametrize("side", ["lhs", "rhs"])
def test_no_other_vector_scores_higher(side: str, kind: str, comparator: str) -> None:
    scorer = scorer_of(kind, comparator)
    generator = torch.Generator().manual_seed(3)
    for parameter in scorer.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    rel, known = torch.ones(500, dtype=torch.int64), torch.randn(DIM, generator=generator).expand(500, DIM)
    best = scorer.predictions(side, rel, known).detach()
    others = best + torch.logspace(-3, 1, 500)[:, None] * torch.randn(500, DIM, generator=generator)

    def score(node: torch.Tensor) -> torch.Tensor:
        return scorer.edges("rhs", rel, node, known) if side == "lhs" else scorer.edges("rhs", rel, known, node)

    assert (score(others) <= score(best) + 1e-5).all()


def test_reciprocal_relations_predict_the_lhs_by_their_inverse() -> None:
    scorer = scorer_of("translation", "dot", [9, 9, 9, 9], reciprocal=True)
    assert scorer.inverse is not None
    scorer.inverse.translation.data[1] = torch.tensor([0.0, 1, 0, 1])
    assert scorer.predictions("lhs", torch.tensor([1]), KNOWN[None]).tolist() == [[1, 3, 3, 5]]


@pytest.mark.parametrize("kind", ["diagonal", "complex_diagonal", "linear", "affine"])
def test_what_an_operator_erases_is_predicted_as_zero(kind: str) -> None:
    """A factor of 0, or nearly, divides nothing: the shortest of the equally good vectors is taken."""
    matrix = np.diag([2.0, 1, 1e-6, 0])
    parameters = {
        "diagonal": [2.0, 1, 1e-6, 0], "complex_diagonal": [2.0, 0, 0, 1e-6],
        "linear": matrix.tolist(), "affine": np.hstack([matrix, np.zeros((4, 1))]).tolist(),
    }  # fmt: skip
    expected = [0.5, 0, 1.5, 0] if kind == "complex_diagonal" else [0.5, 2, 0, 0]
    found = scorer_of(kind, "l2", parameters[kind]).predictions("lhs", torch.tensor([1]), KNOWN[None])
    assert found[0].tolist() == pytest.approx(expected, abs=1e-5)
