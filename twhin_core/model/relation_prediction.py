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
        of_pair: dict[tuple[str, str], list[int]] = {}
        pair: list[int] = []
        within: list[int] = []
        for rel, relation in enumerate(relations):
            same = of_pair.setdefault((relation.lhs, relation.rhs), [])
            pair.append(len(of_pair) - 1 if not same else pair[same[0]])
            within.append(len(same))
            same.append(rel)
        self._pair, self._within = torch.tensor(pair, device=device), torch.tensor(within, device=device)
        self._relations = [torch.tensor(same, device=device) for same in of_pair.values()]

    def __call__(self, scorer: Scorer, rel: Tensor, weight: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """The weighted sum over edges, a scalar: rel and weight [...], lhs and rhs [..., dim]."""
        rel, weight, lhs, rhs = rel.flatten(), weight.flatten(), lhs.flatten(0, -2), rhs.flatten(0, -2)
        if len(self._relations) == 1:
            return self._weight * self._sum(scorer, None, rel, weight, lhs, rhs)
        # Only relations between the same tables are scored: with many pairs of tables, a small part of all.
        order = self._pair[rel].argsort(stable=True)
        pairs, counts = self._pair[rel[order]].unique_consecutive(return_counts=True)
        parts = [
            self._sum(scorer, self._relations[pair], rel[edges], weight[edges], lhs[edges], rhs[edges])
            for pair, edges in zip(pairs.tolist(), order.split(counts.tolist()), strict=True)
        ]
        return self._weight * torch.stack(parts).sum()

    def _sum(
        self, scorer: Scorer, relations: Tensor | None, rel: Tensor, weight: Tensor, lhs: Tensor, rhs: Tensor
    ) -> Tensor:
        """The sum over edges between the same two tables, whose relations are `relations`, or all if None."""
        scores = [scorer.operator.scores(lhs, rhs, relations)]
        if scorer.inverse is not None:
            scores.append(scorer.inverse.scores(rhs, lhs, relations))
        losses = [F.cross_entropy(one.float(), self._within[rel], reduction="none") for one in scores]
        return (torch.stack(losses).mean(0) * weight).sum()
