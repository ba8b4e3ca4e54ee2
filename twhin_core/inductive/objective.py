"""The training loss as a function of the vectors of new nodes, with everything else frozen.

A new node is the query's node in half of the loss and the answer in the other half:

    Σ_e w_e · [ℓ(score(x → v_e), scores(x → candidates)) + ℓ(score(v_e → x), scores(v_e → candidates))]

over its edges e to trained nodes v_e, where ℓ is the model's loss of a positive and its negatives. All edges of a node
share the candidates, so that the scores of a node and a relation are computed once and not for every edge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.config import Model
from twhin_core.inductive.edges import Block
from twhin_core.model.scorer import Scorer
from twhin_core.ranking.queries import split_by
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors.rows import Ints, Rows


class PositiveLoss(ABC):
    """The loss of a positive, from what its query's negatives come down to. As in `model/losses.py`."""

    @abstractmethod
    def sum_up(self, negatives: Tensor) -> Tensor:
        """What the scores of a query's negatives, [G, K], come down to: [G, …]."""

    @abstractmethod
    def of(self, positive: Tensor, negatives: Tensor) -> Tensor:
        """The losses [E] of positives with scores [E], given what `sum_up` made of each one's negatives."""


class Softmax(PositiveLoss):
    """-log( e^{f/τ} / (e^{f/τ} + e^h·Σ_k e^{f_k/τ}) )."""

    def __init__(self, temperature: float, log_weight: float) -> None:
        self._temperature, self._log_weight = temperature, log_weight

    def sum_up(self, negatives: Tensor) -> Tensor:
        return torch.logsumexp(negatives / self._temperature, -1) + self._log_weight

    def of(self, positive: Tensor, negatives: Tensor) -> Tensor:
        return F.softplus(negatives - positive / self._temperature)


class BinaryCrossEntropy(PositiveLoss):
    """softplus(-f) + mean_k softplus(f_k)."""

    def sum_up(self, negatives: Tensor) -> Tensor:
        return F.softplus(negatives).mean(-1)

    def of(self, positive: Tensor, negatives: Tensor) -> Tensor:
        return F.softplus(-positive) + negatives


class Ranking(PositiveLoss):
    """mean_k max(0, margin - f + f_k)."""

    def __init__(self, margin: float) -> None:
        self._margin = margin

    def sum_up(self, negatives: Tensor) -> Tensor:
        return negatives

    def of(self, positive: Tensor, negatives: Tensor) -> Tensor:
        return F.relu(self._margin - positive[:, None] + negatives).mean(-1)


def make_loss(model: Model, log_weight: float) -> PositiveLoss:
    """`log_weight`: of each negative, for softmax."""
    if model.loss == "softmax":
        return Softmax(model.temperature, log_weight)
    return Ranking(model.margin) if model.loss == "ranking" else BinaryCrossEntropy()


class Frozen(NamedTuple):
    """What does not change while vectors are fitted."""

    scorer: Scorer
    schema: Schema
    rows: Mapping[str, Rows]
    """The trained vectors, by table."""
    candidates: Mapping[str, Tensor]
    """A sample of them, by table: float32 [K, dim]."""
    losses: Mapping[str, PositiveLoss]
    """By the table of the candidates."""


@dataclass(frozen=True)
class _Kind:
    """The ends of one relation whose queries ask for one side, with all that is computed from trained nodes alone."""

    side: Side
    rel: int
    node: Tensor
    """[E] of the new nodes, ascending."""
    query_node: Tensor
    """[G] the distinct ones."""
    group: Tensor
    """[E] the position in `query_node`."""
    answers: Tensor
    """[E, width] the other nodes, projected as answers."""
    negatives: Tensor
    """[K, width] the candidates, projected as answers."""
    queries: Tensor
    """[E, width] the other nodes, projected as queries for the new ones."""
    offset: Tensor | None
    """[E] of these queries."""
    summed: Tensor
    """[E, …] what the negatives of these queries come down to."""
    weight: Tensor
    """[E] w_e over the weight of all edges of the node."""


class Objective:
    """The loss of a block of new nodes, a function of their vectors."""

    def __init__(self, frozen: Frozen, block: Block) -> None:
        self._frozen = frozen
        total = np.bincount(block.node, block.weight, len(block))
        share = (block.weight / total[block.node]).astype(np.float32)
        kinds = split_by(2 * block.rel + block.asks_rhs)
        self._kinds = [self._kind(block, int(kind) // 2, kind % 2 == 1, ends, share) for kind, ends in kinds]

    @torch.no_grad()
    def _kind(self, block: Block, rel: int, asks_rhs: bool, ends: Ints, share: npt.NDArray[np.float32]) -> _Kind:
        scorer, schema, rows, candidates, losses = self._frozen
        side: Side = "rhs" if asks_rhs else "lhs"
        own = OTHER[side]
        others, place = np.unique(block.other[ends], return_inverse=True)
        known, at = rows[schema.table_of(rel, side)].gather(others), torch.from_numpy(place)
        of_known = torch.full((len(others),), rel)
        queries, offset = scorer.queries(own, of_known, known), scorer.offset(own, of_known, known)
        table = schema.table_of(rel, own)
        negatives = self._against(own, rel, queries, offset, candidates[table])
        query_node, group = torch.unique_consecutive(torch.from_numpy(block.node[ends]), return_inverse=True)
        drawn = candidates[schema.table_of(rel, side)]
        return _Kind(
            side, rel,
            node=torch.from_numpy(block.node[ends]), query_node=query_node, group=group,
            answers=scorer.answers(side, of_known, known)[at],
            negatives=scorer.answers(side, torch.full((len(drawn),), rel), drawn),
            queries=queries[at], offset=None if offset is None else offset[at],
            summed=losses[table].sum_up(negatives)[at],
            weight=torch.from_numpy(share[ends]),
        )  # fmt: skip

    def _against(self, side: Side, rel: int, queries: Tensor, offset: Tensor | None, candidates: Tensor) -> Tensor:
        """Scores of candidates [K, dim] for queries of trained nodes [G, width]: [G, K]."""
        scorer = self._frozen.scorer
        answers = scorer.answers(side, torch.full((len(candidates),), rel), candidates)
        return scorer.one_to_all(queries[None], answers[None], None if offset is None else offset[None])[0]

    def __call__(self, vectors: Tensor) -> Tensor:
        """The sum over the nodes of the mean loss of their edges; vectors [n, dim] → scalar."""
        return torch.stack([self._of_kind(kind, vectors) for kind in self._kinds]).sum()

    def _of_kind(self, kind: _Kind, vectors: Tensor) -> Tensor:
        scorer, schema, _, _, losses = self._frozen
        rel, given = torch.full((len(kind.query_node),), kind.rel), vectors[kind.query_node]
        queries, offset = scorer.queries(kind.side, rel, given), scorer.offset(kind.side, rel, given)
        to_all = scorer.one_to_all(queries[None], kind.negatives[None], None if offset is None else offset[None])[0]
        own_offset = None if offset is None else offset[kind.group]
        as_query = losses[schema.table_of(kind.rel, kind.side)]
        asked = as_query.of(
            scorer.one_to_one(queries[kind.group], kind.answers, own_offset), as_query.sum_up(to_all)[kind.group]
        )
        own = OTHER[kind.side]
        answers = scorer.answers(own, torch.full((len(kind.node),), kind.rel), vectors[kind.node])
        answered = losses[schema.table_of(kind.rel, own)].of(
            scorer.one_to_one(kind.queries, answers, kind.offset), kind.summed
        )
        return ((asked + answered) * kind.weight).sum()
