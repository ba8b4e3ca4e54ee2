"""The score of an edge, and of many candidates for one of its ends.

`score(lhs, rel, rhs) = comparator(operator_rel(θ_lhs), θ_rhs)`, which comes of `⟨query, answer⟩ + offset` once each
end is projected. Training, evaluation and retrieval all score here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from twhin_core.config import Model, Relation
from twhin_core.model.comparators import COMPARATORS
from twhin_core.model.operators import RelationOperators

Side = Literal["lhs", "rhs"]
"""The end of an edge that is asked for: `rhs` for the query (lhs, rel, ?), `lhs` for (?, rel, rhs)."""
SIDES: tuple[Side, Side] = ("lhs", "rhs")


def relations_share_candidates(model: Model, side: Side) -> bool:
    """Whether a candidate is projected alike for all relations, so that their queries can share one matrix product.

    It is where the operator acts on the query. Where it acts on the candidates (queries for the lhs, without an
    inverse), the comparator must let it be moved over.
    """
    return side == "rhs" or model.reciprocal or COMPARATORS[model.comparator].commutes_with_operators


class Scorer(nn.Module):
    """Operators of all relations and the comparator; holds every parameter but the tables.

    With `model.reciprocal`, queries for the lhs use an inverse operator of their own:
    `comparator(inverse_rel(θ_rhs), θ_lhs)`, so an edge has two scores, one a side.
    """

    def __init__(self, model: Model, relations: list[Relation]) -> None:
        super().__init__()
        self.comparator = COMPARATORS[model.comparator]()
        self.operator = RelationOperators(relations, model.dim)
        self.inverse = RelationOperators(relations, model.dim) if model.reciprocal else None

    def queries(self, side: Side, rel: Tensor, given: Tensor) -> tuple[Tensor, Tensor | None]:
        """Projects known ends, lhs if `side` is rhs and the other way round: rel [...], given [..., dim].

        Returns:
            The queries [..., width], and the offset [...] of their scores, None where it is 0.
        """
        if side == "rhs":
            return self.comparator.query(self.operator(rel, given)), None
        if self.inverse is not None:
            return self.comparator.query(self.inverse(rel, given)), None
        if self.comparator.commutes_with_operators:
            return self.comparator.query(self.operator.adjoint(rel, given)), self.operator.bias(rel, given)
        return self.comparator.query(given), None

    def answers(self, side: Side, rel: Tensor, nodes: Tensor) -> Tensor:
        """Projects nodes that may answer queries for `side`: rel [...], nodes [..., dim] → [..., width].

        `rel` matters only unless `relations_share_candidates`.
        """
        if side == "lhs" and self.inverse is None and not self.comparator.commutes_with_operators:
            nodes = self.operator(rel, nodes)
        return self.comparator.answer(nodes)

    def one_to_one(self, queries: Tensor, answers: Tensor, offset: Tensor | None) -> Tensor:
        """Scores of projected pairs: queries and answers [..., width], offset [...] → [...]."""
        products = (queries * answers).sum(-1)
        return self.comparator.finish(products if offset is None else products + offset)

    def all_pairs(self, queries: Tensor, answers: Tensor, offset: Tensor | None) -> Tensor:
        """Scores of a chunk: queries [C, L, width], answers [C, K, width], offset [C, L] → [C, L, K]."""
        products = torch.bmm(queries, answers.transpose(1, 2))
        return self.comparator.finish(products if offset is None else products + offset[:, :, None])

    def edges(self, side: Side, rel: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """Scores of whole edges as answers to their query for `side`: rel [...], lhs and rhs [..., dim] → [...]."""
        given, asked = (lhs, rhs) if side == "rhs" else (rhs, lhs)
        queries, offset = self.queries(side, rel, given)
        return self.one_to_one(queries, self.answers(side, rel, asked), offset)

    def candidates(self, side: Side, rel: Tensor, given: Tensor, candidates: Tensor) -> Tensor:
        """Scores of candidates for `side`, which the queries of a chunk share.

        Args:
            rel: [C, L] relation of each query, in C chunks of L; one relation a chunk unless
                `relations_share_candidates`.
            given: [C, L, dim] vector of each query's known end.
            candidates: [C, K, dim] vectors of each chunk's candidates.

        Returns:
            [C, L, K] scores.
        """
        queries, offset = self.queries(side, rel, given)
        answers = self.answers(side, rel[:, :1].expand(-1, candidates.shape[1]), candidates)
        return self.all_pairs(queries, answers, offset)
