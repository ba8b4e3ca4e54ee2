"""The score of an edge, and of many candidates for one of its ends.

`score(lhs, rel, rhs) = comparator(operator_rel(θ_lhs), θ_rhs)`. Training, evaluation and retrieval all score here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from twhin_core.config import Model
from twhin_core.model.comparators import COMPARATORS
from twhin_core.model.operators import OPERATORS

Side = Literal["lhs", "rhs"]
"""The end of an edge that is asked for: `rhs` for the query (lhs, rel, ?), `lhs` for (?, rel, rhs)."""
SIDES: tuple[Side, Side] = ("lhs", "rhs")


class Scorer(nn.Module):
    """Operators of all relations and the comparator; holds every parameter but the tables.

    With `model.reciprocal`, queries for the lhs use an inverse operator of their own:
    `comparator(inverse_rel(θ_rhs), θ_lhs)`, so an edge has two scores, one a side.
    """

    def __init__(self, model: Model, num_relations: int) -> None:
        super().__init__()
        self.comparator = COMPARATORS[model.comparator]()
        operator = OPERATORS["translation"]
        self.operator = operator(num_relations, model.dim)
        self.inverse = operator(num_relations, model.dim) if model.reciprocal else None

    def edges(self, side: Side, rel: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """Scores of whole edges as answers to their query for `side`: rel [...], lhs and rhs [..., dim] → [...]."""
        if side == "lhs" and self.inverse is not None:
            moved, other = self.inverse(rel, rhs), lhs
        else:
            moved, other = self.operator(rel, lhs), rhs
        return self.comparator.compare((moved * other).sum(-1), moved.square().sum(-1), other.square().sum(-1))

    def candidates(self, side: Side, rel: Tensor, given: Tensor, candidates: Tensor) -> Tensor:
        """Scores of candidates for `side`, which the queries of a chunk share.

        Args:
            rel: [C, L] relation of each query, in C chunks of L.
            given: [C, L, dim] vector of each query's known end: lhs if `side` is rhs, and the other way round.
            candidates: [C, K, dim] vectors of each chunk's candidates.

        Returns:
            [C, L, K] scores.
        """
        if side == "lhs" and self.inverse is None:
            inner = self.operator.candidate_inner(rel, candidates, given)
            if not self.comparator.uses_lengths:
                return inner
            lengths = self.operator.candidate_square(rel, candidates)
            return self.comparator.compare(inner, lengths, given.square().sum(-1)[:, :, None])
        operator = self.operator if self.inverse is None or side == "rhs" else self.inverse
        moved = operator(rel, given)
        inner = torch.bmm(moved, candidates.transpose(1, 2))
        return self.comparator.compare(
            inner, moved.square().sum(-1)[:, :, None], candidates.square().sum(-1)[:, None, :]
        )
