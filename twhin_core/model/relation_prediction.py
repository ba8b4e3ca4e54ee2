"""A second objective: predict the relation of an edge from its two nodes (Chen et al., 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.config import Relation
from twhin_core.model.scorer import Scorer


class RelationPrediction:
    """λ · cross-entropy of an edge's relation among all relations between the same tables, with scores as logits.

    With reciprocal relations, the mean of the losses of both sides' scores.
    """

    def __init__(self, weight: float, relations: list[Relation], device: torch.device | None = None) -> None:
        self._weight = weight
        tables = [(relation.lhs, relation.rhs) for relation in relations]
        self._others = torch.tensor([[one != other for other in tables] for one in tables], device=device)

    def __call__(self, scorer: Scorer, rel: Tensor, weight: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """The weighted sum over edges, a scalar: rel and weight [...], lhs and rhs [..., dim]."""
        scores = [scorer.operator.scores(lhs, rhs)]
        if scorer.inverse is not None:
            scores.append(scorer.inverse.scores(rhs, lhs))
        others = self._others[rel.flatten()]
        losses = [
            F.cross_entropy(one.float().flatten(0, -2).masked_fill(others, -torch.inf), rel.flatten(), reduction="none")
            for one in scores
        ]
        return self._weight * (torch.stack(losses).mean(0) * weight.flatten()).sum()
