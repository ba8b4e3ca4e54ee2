"""Regularization: the cost of a positive edge is a power of its vectors and of its relation's parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from twhin_core.config import Regularization
from twhin_core.model.relation_operators import RelationOperators
from twhin_core.model.scorer import Scorer


class Regularizer:
    """λ·Σ_i |x_i|^p over both nodes and the relation of every edge (Lacroix et al., 2018, N3 with p = 3).

    A node of many edges is penalized as often as it is trained. Negatives cost nothing.
    """

    def __init__(self, settings: Regularization) -> None:
        self._settings = settings

    def __call__(self, scorer: Scorer, rel: Tensor, weight: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """The weighted sum over edges, a scalar: rel and weight [...], lhs and rhs [..., dim]."""
        tables, relations, power = self._settings.tables, self._settings.relations, self._settings.power
        cost = weight.new_zeros(())
        if tables:
            both = scorer.operator.powers(rel, lhs, power) + scorer.operator.powers(rel, rhs, power)
            cost = cost + tables * (both * weight).sum()
        if relations:
            operators = [scorer.operator] if scorer.inverse is None else [scorer.operator, scorer.inverse]
            cost = cost + relations * sum(_cost(one, rel, weight, power) for one in operators) / len(operators)
        return cost


def _cost(operators: RelationOperators, rel: Tensor, weight: Tensor, power: int) -> Tensor:
    # Weights are summed per relation first: there are fewer relations than edges.
    total = torch.zeros(operators.relations, device=weight.device)
    return operators.cost(total.index_add_(0, rel.flatten(), weight.flatten()), power)
