"""The model: embedding tables, the scorer, and the loss of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
from torchrec.modules.embedding_configs import DataType

from twhin_core.config import Model
from twhin_core.model import both_sides, fused_softmax
from twhin_core.model.anchor import Anchors
from twhin_core.model.batch import Batch, Explicit, Queries
from twhin_core.model.content import ContentTables, Predictor
from twhin_core.model.losses import Correction, Softmax, make_loss
from twhin_core.model.regularizer import Regularizer
from twhin_core.model.relation_prediction import RelationPrediction
from twhin_core.model.scorer import Scorer
from twhin_core.model.tower import Tower
from twhin_core.schema import SIDES, Schema, Side

DATA_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16}


class Twhin(nn.Module):
    """`forward` returns the loss of a batch; the tables may live on the meta device until they are sharded."""

    relation_weights: Tensor | None
    """float32 [relations]: what training multiplies the weights of a relation's edges by; None without
    `model.target`."""

    def __init__(
        self,
        model: Model,
        schema: Schema,
        table_device: torch.device,
        device: torch.device,
        anchors: Anchors | None = None,
    ) -> None:
        super().__init__()
        self.table_names = list(schema.tables)
        self.tables = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=name,
                    num_embeddings=size,
                    embedding_dim=model.dim,
                    feature_names=[name],
                    data_type=DATA_TYPES[model.table(name).data_type],
                )
                for name, size in schema.tables.items()
            ],
            device=table_device,
        )
        self.project_gradients_of: set[str] = set()
        """Tables of unit rows whose optimizer does not make gradients tangent to the sphere."""
        self.unit_tables = {name for name in schema.tables if model.table(name).is_spherical}
        self.dim = model.dim
        self.scorer = Scorer(model, schema.relations).to(device)
        self.comparator = model.comparator
        self.loss = make_loss(model)
        self.anchors = anchors
        ones = None if model.target is None else torch.ones(len(schema.relations), device=device)
        self.register_buffer("relation_weights", ones)
        self.content = ContentTables(schema) if schema.content else None
        self.towers, self.predictors = (
            nn.ModuleDict({name: kind(shape, model.dim) for name, shape in schema.content.items()}).to(device)
            for kind in (Tower, Predictor)
        )
        self.extra: list[Regularizer | RelationPrediction] = []
        if model.regularization is not None:
            self.extra.append(Regularizer(model.regularization))
        if model.relation_prediction:
            self.extra.append(RelationPrediction(model.relation_prediction, schema.relations, device))

    def forward(self, batch: Batch) -> Tensor:
        """This rank's part of the step's mean loss: Σ weight · (lhs side + rhs side) / 2 / edges of the step.

        In training, it includes regularization, relation prediction and anchors if they are configured.
        """
        rows, prediction_loss = self._gather(batch)
        anchored = batch  # anchors hold nodes whatever their edges weigh
        if self.training and self.relation_weights is not None:
            batch = batch.weighted(self.relation_weights)
        if both_sides.are_worthwhile(rows[0].device):
            loss_of = partial(self._loss, batch)
            lhs, rhs = both_sides.side_losses(loss_of, rows, list(self.scorer.parameters()), 1 / (2 * batch.step_edges))
        else:
            lhs, rhs = (self._loss(batch, side, rows) for side in SIDES)
        loss = (lhs + rhs) / (2 * batch.step_edges)
        if self.training and self.extra:
            edges = batch.queries["rhs"]  # each edge has exactly one slot on either side
            lhs, rhs = (rows[gather].view(*edges.rel.shape, -1) for gather in (edges.node, edges.answer))
            for objective in self.extra:
                loss = loss + objective(self.scorer, edges.rel, edges.weight, lhs, rhs) / batch.step_edges
        if self.training and self.anchors is not None:
            world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            loss = loss + self.anchors(anchored, rows, world_size)
        if self.training and prediction_loss is not None:
            loss = loss + prediction_loss - prediction_loss.detach()  # no part of what is reported
        return loss

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether a loss by the fused kernels has the same shapes whatever the edges, as a CUDA graph needs."""
        operators = [self.scorer.operator, *([] if self.scorer.inverse is None else [self.scorer.inverse])]
        return isinstance(self.loss, Softmax) and all(of.has_fixed_shapes for of in operators)

    def _gather(self, batch: Batch) -> tuple[Sequence[Tensor], Tensor | None]:
        """The rows [n, dim] of each of the batch's gathers, and the loss of predicting them from content, if any."""
        if batch.lookups is None:
            return self.tables.gather(batch.gathers), None
        looked_up, losses = self._look_up(batch.lookups)
        return _gathered(looked_up, batch), None if losses is None else self._prediction_loss(batch, losses)

    def looked_up(self, lookups: KeyedJaggedTensor) -> Tensor:
        """The rows of all tables with their content, one table after the other: [m, dim]."""
        return self._look_up(lookups)[0]

    def _look_up(self, lookups: KeyedJaggedTensor) -> tuple[Tensor, Tensor | None]:
        """As `looked_up`, and the loss of predicting each row from its content, [m], if any node has content."""
        found = self.tables(lookups)  # in the order of the sharding
        of_tables = [
            # No change for rows of length 1; backward, the projection.
            F.normalize(found[name].values()) if name in self.project_gradients_of else found[name].values()
            for name in self.table_names
        ]
        losses = None
        if self.content is not None:
            pairs = zip(self.table_names, of_tables, strict=True)
            with_losses = [self._with_content(*pair, lookups) for pair in pairs]
            of_tables = [rows for rows, _ in with_losses]
            losses = torch.cat([of for _, of in with_losses])
        return torch.cat(of_tables) if len(of_tables) > 1 else of_tables[0], losses

    def losses_of_relations(self, batch: Batch, looked_up: Tensor) -> Tensor:
        """The sum of the weighted losses of each relation's edges, both sides: [relations].

        `looked_up`: the rows [m, dim] of the batch's lookups, or others in their place.
        """
        rows = _gathered(looked_up, batch)
        total = looked_up.new_zeros(self.scorer.operator.relations)
        for side, queries in batch.queries.items():
            losses = self._losses(batch, side, rows) * queries.weight
            total = total.index_add(0, queries.rel.flatten(), losses.flatten())
        return total

    def _with_content(self, table: str, rows: Tensor, lookups: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """The looked-up rows of a table, [n, dim], with content, and the loss of predicting each: [n]."""
        if self.content is None or table not in self.towers:
            return rows, rows.new_zeros(len(rows))
        content = self.content.look_up(table, lookups)
        composed = rows + self.towers[table](content).to(rows.dtype)
        loss = self.predictors[table](content, rows, lookups[table].values())
        return F.normalize(composed) if table in self.unit_tables else composed, loss

    def _prediction_loss(self, batch: Batch, losses: Tensor) -> Tensor:
        """This rank's part of the mean over the step's edges of what predicting their ends loses.

        `losses`: of each looked-up row.
        """
        edges = batch.queries["rhs"]  # each edge has exactly one slot
        is_edge = (edges.weight > 0).flatten()  # not padding
        of_ends = losses[batch.gathers[edges.node]] + losses[batch.gathers[edges.answer]]
        return (of_ends * is_edge).sum() / batch.step_edges

    def _loss(self, whole: Batch, side: Side, rows: Sequence[Tensor]) -> Tensor:
        """Weighted sum of the losses of the batch's queries for `side`, a scalar. `rows`: those of each gather."""
        return (self._losses(whole, side, rows) * whole.queries[side].weight).sum()

    def _losses(self, whole: Batch, side: Side, rows: Sequence[Tensor]) -> Tensor:
        """The losses [C, L] of the batch's queries for `side`."""
        losses, explicit = self._losses_of_drawn(whole, side, rows), whole.queries[side].explicit
        return losses if explicit is None else self._with_explicit(whole, side, rows, losses, explicit)

    def _with_explicit(
        self, whole: Batch, side: Side, rows: Sequence[Tensor], losses: Tensor, explicit: Explicit
    ) -> Tensor:
        """The losses [C, L] with the explicit negatives of the queries, given those against drawn negatives."""
        batch, shape = whole.queries[side], explicit.is_there.shape
        node, answer = (rows[of].view(*batch.rel.shape, -1) for of in (batch.node, batch.answer))
        nodes = rows[explicit.gather].view(*shape, -1)
        queries, offset = self.scorer.queries(side, batch.rel, node), self.scorer.offset(side, batch.rel, node)
        answers = self.scorer.answers(side, batch.rel, answer)
        of_each = self.scorer.answers(side, batch.rel[..., None].expand(shape), nodes)
        positive = self.scorer.one_to_one(queries, answers, offset) / self.loss.temperature
        offset = None if offset is None else offset[..., None]
        negatives = self.scorer.one_to_one(queries[..., None, :], of_each, offset) / self.loss.temperature
        if (correction := self._correction(side, batch)) is not None:
            positive = positive - correction.answers
        if explicit.log_share is not None:
            prior = self.scorer.prior_logits(side, batch.rel.flatten(), explicit.log_share.flatten(0, 1))
            negatives = negatives + prior.view(shape)
        drawn = len(rows[batch.candidate]) // len(batch.rel)
        log_drawn = torch.full_like(positive[:, 0], math.log(drawn))
        if batch.log_weight is not None:
            log_drawn = log_drawn + batch.log_weight
        return self.loss.with_explicit(losses, positive, negatives, explicit.is_there, explicit.share, log_drawn)

    def _losses_of_drawn(self, whole: Batch, side: Side, rows: Sequence[Tensor]) -> Tensor:
        """The losses [C, L] of the batch's queries for `side` against the drawn negatives."""
        batch = whole.queries[side]
        gathers = (batch.node, batch.answer, batch.candidate)
        node, answer, candidates = (rows[of].view(len(batch.rel), -1, rows[of].shape[-1]) for of in gathers)
        masked, correction = batch.masked, self._correction(side, batch)
        if masked is None:
            answer_id, candidate_id = (whole.ids(of).view(len(batch.rel), -1) for of in gathers[1:])
            if isinstance(self.loss, Softmax) and fused_softmax.is_available(node.device, node.shape[-1]):
                return fused_softmax.softmax_losses(
                    self.scorer, self.comparator, side, batch, (node, answer, candidates), (answer_id, candidate_id),
                    correction, self.loss.temperature,
                )  # fmt: skip
            masked = fused_softmax.masked_positions(batch, (answer_id, candidate_id))
        queries = self.scorer.queries(side, batch.rel, node)
        answers = self.scorer.answers(side, batch.rel, answer)
        negatives = self.scorer.shared_answers(side, batch.rel, candidates)
        offset = None if self.loss.is_shift_invariant else self.scorer.offset(side, batch.rel, node)
        self_negative = self.scorer.answers(side, batch.rel, node) if batch.has_self else None
        scores = self.scorer.one_to_negatives(queries, answers, negatives, offset, self_negative)
        return self.loss(scores, masked, batch.log_weight, correction)

    def _correction(self, side: Side, batch: Queries) -> Correction | None:
        """What to subtract from the batch's logits; None if there is nothing."""
        logq = None
        if batch.answer_correction is not None and batch.correction is not None:
            logq = Correction(batch.answer_correction, batch.correction)
        if batch.log_share is None or batch.answer_log_share is None:
            return logq
        prior = partial(self.scorer.prior_logits, side, batch.rel[:, 0])
        answers, candidates = prior(batch.answer_log_share), prior(batch.log_share)
        own = None if batch.self_log_share is None else -prior(batch.self_log_share)
        if logq is None:
            return Correction(-answers, -candidates, own)
        return Correction(logq.answers - answers, logq.candidates - candidates, own)


def _gathered(looked_up: Tensor, batch: Batch) -> Sequence[Tensor]:
    """The rows [n, dim] of each gather, from the looked-up rows [m, dim]."""
    return _Gather.apply(looked_up, batch)  # type: ignore[no-untyped-call, no-any-return]  # untyped in torch


class _Gather(torch.autograd.Function):
    """The rows [n, dim] of each gather, from the looked-up rows [m, dim].

    Written by hand because autograd's own backward sorts the indices in every step or adds rows one by one; a batch
    brings them sorted.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        ctx.batch = batch
        return tuple(rows.index_select(0, index) for index in batch.gathers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        order, start = ctx.batch.order, ctx.batch.start
        return F.embedding_bag(order, torch.cat(gradients), start, mode="sum", include_last_offset=True), None
