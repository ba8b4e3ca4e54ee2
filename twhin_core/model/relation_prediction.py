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
        self._has_others = torch.tensor([len(of_pair[of.lhs, of.rhs]) > 1 for of in relations], device=device)

    def __call__(self, scorer: Scorer, rel: Tensor, weight: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """The weighted sum over edges, a scalar: rel and weight [...], lhs and rhs [..., dim]."""
        rel, weight, lhs, rhs = rel.flatten(), weight.flatten(), lhs.flatten(0, -2), rhs.flatten(0, -2)
        if len(self._relations) == 1:
            relations, edges, candidates = None, [len(rel)], [len(self._pair)]
        else:
            # Only relations between the same tables are scored: with many pairs of tables, a small part of all. A
            # relation that is alone there is certain, and so costs nothing.
            order = self._has_others[rel].nonzero().squeeze(1)
            if not len(order):
                return lhs.new_zeros(())
            order = order[self._pair[rel[order]].argsort(stable=True)]
            pairs, counts = self._pair[rel[order]].unique_consecutive(return_counts=True)
            of_pairs = [self._relations[pair] for pair in pairs.tolist()]
            relations, edges, candidates = torch.cat(of_pairs), counts.tolist(), [len(of) for of in of_pairs]
            rel, weight, lhs, rhs = (of.index_select(0, order) for of in (rel, weight, lhs, rhs))
        # Divided after they are read, so that the gradients of all pairs are written once.
        wanted = self._within[rel].split(edges)
        sides = [(scorer.operator, lhs, rhs)] + ([] if scorer.inverse is None else [(scorer.inverse, rhs, lhs)])
        losses = []
        for operators, given, asked in sides:
            features, parameters = operators.factors(given, asked, relations)
            parts = zip(features.split(edges), parameters.split(candidates), wanted, strict=True)
            of_pair = [F.cross_entropy((one @ all_.T).float(), at, reduction="none") for one, all_, at in parts]
            losses.append(torch.cat(of_pair))
        return self._weight * (torch.stack(losses).mean(0) * weight).sum()
