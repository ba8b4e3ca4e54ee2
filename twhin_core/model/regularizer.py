"""What large weights cost: a power of the vectors and the parameters of each positive edge."""

from __future__ import annotations

import torch
from torch import Tensor

from twhin_core.config import Regularization
from twhin_core.model.operators import RelationOperators
from twhin_core.model.scorer import Scorer


class Regularizer:
    """λ·Σ_i |x_i|^p of both ends and of the relation of every edge (Lacroix et al., 2018, N3 with p = 3).

    What occurs in more edges is held down more often, as it is pulled more often. Negatives cost nothing.
    """

    def __init__(self, settings: Regularization) -> None:
        self._settings = settings

    def __call__(self, scorer: Scorer, rel: Tensor, weight: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """The cost of edges: rel and weight [...], vectors of their ends [..., dim] → a scalar, summed by weight."""
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
    # Summed a relation first: there are fewer of them than edges.
    total = torch.zeros(operators.relations, device=weight.device)
    return operators.cost(total.index_add_(0, rel.flatten(), weight.flatten()), power)
