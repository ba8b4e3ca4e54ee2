"""The score of an edge, and of many candidates for one of its sides.

`score(lhs, rel, rhs) = comparator(operator_rel(θ_lhs), θ_rhs)`, computed from `⟨query, answer⟩ + offset` after each
side is projected. Training, evaluation and retrieval all score here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twhin_core.config import Model, Relation
from twhin_core.model.comparators import COMPARATORS
from twhin_core.model.relation_operators import RelationOperators
from twhin_core.schema import SIDES, Side

FIRST_PRIOR_WEIGHT = 0.5
"""Where a learned weight of the prior starts."""


def relations_share_candidates(model: Model, side: Side) -> bool:
    """Whether a candidate's projection is the same for all relations, so that queries can share a matrix product.

    True if the operator acts on the query. If it acts on the candidates (queries for the lhs without an inverse), the
    comparator must allow moving it to the query. A prior is of a relation's candidates.
    """
    if model.has_prior(side):
        return False
    return side == "rhs" or model.reciprocal or COMPARATORS[model.comparator].commutes_with_operators


class Scorer(nn.Module):
    """The operators of all relations and the comparator; holds every parameter but the tables.

    With `model.reciprocal`, queries for the lhs use an inverse operator of their own:
    `comparator(inverse_rel(θ_rhs), θ_lhs)`. An edge then has two scores, one per side.

    With `model.prior`, a score has one more term, `prior[rel, side] · temperature · log p(candidate)`. It does not
    depend on vectors: whoever knows the candidates adds it (`prior_logits`, `vectors.prior`).
    """

    prior: Tensor | None
    """float32 [relations, 2]: the weight of the prior of each side, lhs and rhs; 0 for sides without."""

    def __init__(self, model: Model, relations: list[Relation]) -> None:
        super().__init__()
        self.comparator = COMPARATORS[model.comparator]()
        self.operator = RelationOperators(relations, model.dim)
        self.inverse = RelationOperators(relations, model.dim) if model.reciprocal else None
        self.temperature = model.temperature
        self.prior_sides: tuple[Side, ...] = () if model.prior is None else tuple(model.prior.sides)
        if model.prior is None or model.prior.weight != "learned":
            self.register_buffer("prior", _prior_weights(model, len(relations)), persistent=False)
        else:
            self.prior = nn.Parameter(_prior_weights(model, len(relations)))  # type: ignore[arg-type]  # not None

    def rotate(self, rotation: Tensor) -> None:
        """Makes the scores of vectors x·Q those that x had. `rotation`: Q, orthogonal, float32 [dim, dim].

        Every comparator depends on inner products and lengths only, which Q keeps.
        """
        for operators in (self.operator, self.inverse):
            if operators is not None:
                operators.rotate(rotation)

    def prior_logits(self, side: Side, rel: Tensor, log_share: Tensor) -> Tensor:
        """What the prior adds to the logits of candidates for `side`: rel [C], log p [C, X] → [C, X]."""
        assert self.prior is not None
        return self.prior[:, SIDES.index(side)].index_select(0, rel)[:, None] * log_share

    def of_prior(self, rel: Tensor, node: Tensor) -> Tensor:
        """The coordinate of queries that the candidates' priors are multiplied by: [...] and [..., dim] → [..., 1]."""
        return torch.ones_like(node[..., :1])

    def shares_candidates(self, side: Side) -> bool:
        """As `relations_share_candidates`, but for the prior."""
        return side == "rhs" or self.inverse is not None or self.comparator.commutes_with_operators

    def queries(self, side: Side, rel: Tensor, node: Tensor) -> Tensor:
        """Projects the queries' nodes, which are on the other side than `side`; scores still need the query's `offset`.

        rel [...], node [..., dim] → [..., width].
        """
        return self.comparator.query(self._operated(side, rel, node))

    def _operated(self, side: Side, rel: Tensor, node: Tensor) -> Tensor:
        """The queries' nodes with their operators applied: rel [...], node [..., dim] → [..., dim]."""
        if side == "rhs":
            return self.operator(rel, node)  # type: ignore[no-any-return]  # nn.Module calls are untyped
        if self.inverse is not None:
            return self.inverse(rel, node)  # type: ignore[no-any-return]
        if self.comparator.commutes_with_operators:
            return self.operator.adjoint(rel, node)
        return node

    def offset(self, side: Side, rel: Tensor, node: Tensor) -> Tensor | None:
        """What to add to all products of a query: rel [...], node [..., dim] → [...]; None if it is 0."""
        if side == "rhs" or self.inverse is not None or not self.comparator.commutes_with_operators:
            return None
        return self.operator.bias(rel, node)

    def answers(self, side: Side, rel: Tensor, nodes: Tensor) -> Tensor:
        """Projects nodes that may answer queries for `side`: rel [...], nodes [..., dim] → [..., width].

        `rel` has no effect if `relations_share_candidates`.
        """
        return self.comparator.answer(self._answering(side, rel, nodes))

    def _answering(self, side: Side, rel: Tensor, nodes: Tensor) -> Tensor:
        """Nodes, with the operator applied if it acts on answers: rel [...], nodes [..., dim] → [..., dim]."""
        return nodes if self.shares_candidates(side) else self.operator(rel, nodes)

    def predictions(self, side: Side, rel: Tensor, known: Tensor) -> Tensor:
        """What each edge predicts of the vector of its node on `side`, from that of its other node.

        rel [...], known [..., dim] → [..., dim]:

        - of the rhs, operator(θ_lhs), which is where the edge would score highest;
        - of the lhs, inverse(θ_rhs) with reciprocal relations, else A⁺·(θ_rhs - b) for operator(x) = A·x + b, the x
          whose image is θ_rhs. With the dot product, Aᵀ·(θ_rhs - b): the score then grows fastest in this direction,
          whereas A⁺ would enlarge the coordinates that count least. Both are θ_rhs - θ_rel for a translation.

        Only the direction counts for the cosine and the dot product; the length is that of the image.
        """
        if side == "rhs":
            return self.operator(rel, known)  # type: ignore[no-any-return]
        if self.inverse is not None:
            return self.inverse(rel, known)  # type: ignore[no-any-return]
        return self.operator.inverse(rel, known, exact=not self.comparator.commutes_with_operators)

    def query_points(self, side: Side, rel: Tensor, node: Tensor) -> Tensor:
        """Like `queries`, but returns the points to compare: rel [...], node [..., dim] → [..., dim]."""
        return self.comparator.point(self._operated(side, rel, node))

    def answer_points(self, side: Side, rel: Tensor, nodes: Tensor) -> Tensor:
        """Like `answers`, but returns the points to compare: rel [...], nodes [..., dim] → [..., dim]."""
        return self.comparator.point(self._answering(side, rel, nodes))

    def shared_answers(self, side: Side, rel: Tensor, candidates: Tensor) -> Tensor:
        """Projects the candidates that a chunk's queries share: rel [C, L], candidates [C, K, dim] → [C, K, width].

        A chunk must have a single relation unless `relations_share_candidates`.
        """
        return self.answers(side, rel[:, :1].expand(-1, candidates.shape[1]), candidates)

    def one_to_one(self, queries: Tensor, answers: Tensor, offset: Tensor | None) -> Tensor:
        """Scores of projected pairs: queries and answers [..., width], offset [...] → [...]."""
        return self.finished((queries * answers).sum(-1), offset)

    def one_to_all(self, queries: Tensor, answers: Tensor, offset: Tensor | None) -> Tensor:
        """Scores of a chunk: queries [C, L, width], answers [C, K, width], offset [C, L] → [C, L, K]."""
        products = torch.bmm(queries, answers.transpose(1, 2))
        return self.finished(products, None if offset is None else offset[:, :, None])

    def one_to_negatives(
        self,
        queries: Tensor,
        answers: Tensor,
        negatives: Tensor,
        offset: Tensor | None,
        self_negative: Tensor | None = None,
    ) -> Tensor:
        """Scores of the true answers, each followed by those of its negatives.

        Args:
            queries: [C, L, width].
            answers: [C, L, width], one per query.
            negatives: [C, K, width], shared by the chunk.
            offset: [C, L].
            self_negative: [C, L, width], one more negative per query.

        Returns:
            [C, L, 1 + K]; with `self_negative`, [C, L, 2 + K], where its score follows the answer's.
        """
        # autograd.Function is untyped.
        products = _Products.apply(queries, answers, negatives, self_negative)  # type: ignore[no-untyped-call]
        return self.finished(products, None if offset is None else offset[:, :, None])

    def finished(self, products: Tensor, offset: Tensor | None) -> Tensor:
        """Scores from products of projected vectors, [...], and the offsets of their queries."""
        return self.comparator.finish(products if offset is None else products + offset)

    def edges(self, side: Side, rel: Tensor, lhs: Tensor, rhs: Tensor) -> Tensor:
        """Scores of edges as answers to their queries for `side`: rel [...], lhs and rhs [..., dim] → [...]."""
        node, answer = (lhs, rhs) if side == "rhs" else (rhs, lhs)
        queries, answers = self.queries(side, rel, node), self.answers(side, rel, answer)
        return self.one_to_one(queries, answers, self.offset(side, rel, node))

    def candidates(self, side: Side, rel: Tensor, node: Tensor, candidates: Tensor) -> Tensor:
        """Scores of candidates for `side` that the queries of a chunk share.

        Args:
            rel: [C, L], the relation of each query, in C chunks of L; a chunk must have a single relation unless
                `relations_share_candidates`.
            node: [C, L, dim], the vector of each query's node.
            candidates: [C, K, dim], the vectors of each chunk's candidates.

        Returns:
            [C, L, K] scores.
        """
        queries, answers = self.queries(side, rel, node), self.shared_answers(side, rel, candidates)
        return self.one_to_all(queries, answers, self.offset(side, rel, node))


def _prior_weights(model: Model, relations: int) -> Tensor | None:
    """[relations, 2], the initial ones if they are learned; None without a prior."""
    if model.prior is None:
        return None
    weight = FIRST_PRIOR_WEIGHT if model.prior.weight == "learned" else model.prior.weight
    return torch.tensor([weight * model.has_prior(side) for side in SIDES]).repeat(relations, 1)


class _Products(torch.autograd.Function):
    """Inner products of each query [C, L, width] with its answer [C, L, width], with its self negative [C, L, width] if
    there is one, and with all negatives of its chunk [C, K, width].

    The result is [C, L, 1 + K] or [C, L, 2 + K], in that order; products with the chunk's negatives are in autocast's
    dtype where it is enabled. Written by hand because autograd would copy the products, the largest tensor of a step,
    to concatenate the others with them.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, answers: Tensor, negatives: Tensor, self_negative: Tensor | None) -> Tensor:
        device = queries.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else queries.dtype
        single = [answers] if self_negative is None else [answers, self_negative]
        low_queries, padded = queries.to(low), F.pad(negatives.to(low), (0, 0, len(single), 0))
        products = torch.bmm(low_queries, padded.transpose(1, 2))
        for column, vectors in enumerate(single):
            products[..., column] = (queries * vectors).sum(-1)
        ctx.save_for_backward(queries, low_queries, padded, *single)
        return products

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        queries, low_queries, padded, *single = ctx.saved_tensors
        first = gradient[..., : len(single)].to(queries.dtype).split(1, -1)
        # The padding of the first columns is zero and adds nothing to this product.
        to_queries = torch.bmm(gradient, padded).to(queries.dtype)
        for share, vectors in zip(first, single, strict=True):
            to_queries.addcmul_(share, vectors)
        to_negatives = torch.bmm(gradient.transpose(1, 2), low_queries)[:, len(single) :].to(queries.dtype)
        return to_queries, first[0] * queries, to_negatives, first[1] * queries if len(single) > 1 else None
