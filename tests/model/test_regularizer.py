"""Regularization by hand; tests/training/test_step.py compares gradients with a dense implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model.test_scorer import make_scorer
from twhin_core.config import Regularization
from twhin_core.model.regularizer import Regularizer

LHS = torch.tensor([[1.0, -2, 0, 0], [3.0, 0, 4, 0]])
RHS = torch.tensor([[0.0, 0, 0, 1], [-1.0, 0, 0, 0]])
REL = torch.tensor([1, 0])
WEIGHT = torch.tensor([0.5, 2.0])


def cost(operator: str = "translation", reciprocal: bool = False, **settings: Any) -> float:
    relations = [{"name": name, "lhs": "user", "rhs": "user", "operator": operator} for name in ("follow", "fav")]
    scorer = make_scorer(relations=relations, reciprocal=reciprocal)
    for operators, values in ((scorer.operator, [[0, 0, 1, 0], [0, 3, 2, 4]]), (scorer.inverse, [[2, 0, 0, 0]] * 2)):
        if operators is not None:
            operators.get_parameter(operator).data.copy_(torch.tensor(values, dtype=torch.float32))
    return Regularizer(Regularization(**settings))(scorer, REL, WEIGHT, LHS, RHS).item()


def test_tables_by_hand() -> None:
    # Edge 0: cubes 1 + 8 and 1; edge 1: 27 + 64 and 1. By weight: 0.5 · 10 + 2 · 92 = 189.
    assert cost(tables=0.1) == pytest.approx(18.9)
    # Squares: 0.5 · (5 + 1) + 2 · (25 + 1) = 55.
    assert cost(tables=0.1, power=2) == pytest.approx(5.5)


def test_relations_by_hand() -> None:
    # Relation 1 by edge 0, 27 + 8 + 64 = 99 at 0.5; relation 0 by edge 1, 1 at 2.
    assert cost(relations=0.1) == pytest.approx(5.15)
    # Queries for the lhs use the inverses instead, 8 each: the mean of 51.5 and 8 · 2.5.
    assert cost(relations=0.1, reciprocal=True) == pytest.approx(3.575)
    assert cost(tables=0.1, relations=0.1) == pytest.approx(18.9 + 5.15)


def test_complex_numbers_by_hand() -> None:
    # Edge 0: |1|³ + |-2|³ and |0 + 1i|³; edge 1: |3 + 4i|³ = 125 and 1. 0.5 · 10 + 2 · 126 = 257.
    assert cost("complex_diagonal", tables=0.1) == pytest.approx(25.7)
    # Relation 1: |0 + 2i|³ + |3 + 4i|³ = 133 at 0.5; relation 0: 1 at 2.
    assert cost("complex_diagonal", relations=0.1) == pytest.approx(6.85)


@pytest.mark.parametrize("power", [2, 3])
def test_nothing_costs_nothing_and_pulls_nowhere(power: int) -> None:
    """The derivative of |x|^p at 0 is 0, even where it is computed through a root."""
    relations = [{"name": "r", "lhs": "user", "rhs": "user", "operator": "complex_diagonal"}]
    scorer = make_scorer(relations=relations)
    nothing = torch.zeros(1, 4, requires_grad=True)
    made = Regularizer(Regularization(tables=1.0, power=power))(scorer, REL[1:], WEIGHT[1:], nothing, nothing)
    made.backward()
    assert made.item() == 0
    assert nothing.grad is not None
    assert not nothing.grad.any()
