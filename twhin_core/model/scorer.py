"""The score of an edge, and of many candidates for one of its ends.

`score(lhs, rel, rhs) = comparator(operator_rel(θ_lhs), θ_rhs)`. Training, evaluation and retrieval all score here.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from twhin_core.config import Model
from twhin_core.model.comparators import COMPARATORS, Dot
from twhin_core.model.operators import Translation

Side = Literal["lhs", "rhs"]
"""The end of an edge that is asked for: `rhs` for the query (lhs, rel, ?), `lhs` for (?, rel, rhs)."""
SIDES: tuple[Side, Side] = ("lhs", "rhs")


def relations_share_candidates(model: Model, side: Side) -> bool:
    """Whether queries of different relations can share candidates in one matrix product.

    They can where the operator acts on the query. Where it acts on the candidates (queries for the lhs, without an
    inverse), only the dot product lets it be moved over.
    """
    return side == "rhs" or model.reciprocal or model.comparator == "dot"


class Scorer(nn.Module):
    """Operators of all relations and the comparator; holds every parameter but the tables.

    With `model.reciprocal`, queries for the lhs use an inverse operator of their own:
    `comparator(inverse_rel(θ_rhs), θ_lhs)`, so an edge has two scores, one a side.
    """

    def __init__(self, model: Model, num_relations: int) -> None:
        super().__init__()
        self.comparator = COMPARATORS[model.comparator]()
        self.operator = Translation(num_relations, model.dim)
        self.inverse = Translation(num_relations, model.dim) if model.reciprocal else None

    def edges(self, side: Side, rel: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """Scores of whole edges as answers to their query for `side`: rel [...], lhs and rhs [..., dim] → [...]."""
        if side == "lhs" and self.inverse is not None:
            return self.comparator.one_to_one(self.inverse(rel, rhs), lhs)
        return self.comparator.one_to_one(self.operator(rel, lhs), rhs)

    def candidates(self, side: Side, rel: Tensor, given: Tensor, candidates: Tensor) -> Tensor:
        """Scores of candidates for `side`, which the queries of a chunk share.

        Args:
            rel: [C, L] relation of each query, in C chunks of L; one relation a chunk unless
                `relations_share_candidates`.
            given: [C, L, dim] vector of each query's known end: lhs if `side` is rhs, and the other way round.
            candidates: [C, K, dim] vectors of each chunk's candidates.

        Returns:
            [C, L, K] scores.
        """
        if side == "rhs":
            return self.comparator.all_pairs(self.operator(rel, given), candidates)
        if self.inverse is not None:
            return self.comparator.all_pairs(self.inverse(rel, given), candidates)
        if type(self.comparator) is Dot:
            scores = self.comparator.all_pairs(given, candidates)
            return scores + self.operator.offset(rel, given)[:, :, None]
        moved = self.operator(rel[:, :1].expand(-1, candidates.shape[1]), candidates)
        return self.comparator.all_pairs(given, moved)
