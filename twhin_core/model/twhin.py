"""The model: embedding tables, the scorer, and the loss of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig
from torchrec.modules.embedding_configs import DataType

from twhin_core.config import Model
from twhin_core.model import fused_softmax
from twhin_core.model.batch import Batch
from twhin_core.model.losses import Softmax, make_loss
from twhin_core.model.regularizer import Regularizer
from twhin_core.model.relation_prediction import RelationPrediction
from twhin_core.model.scorer import Scorer
from twhin_core.schema import SIDES, Schema, Side

DATA_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16}


class Twhin(nn.Module):
    """`forward` gives the loss of a batch; the tables may live on the meta device until they are sharded."""

    def __init__(self, model: Model, schema: Schema, table_device: torch.device, device: torch.device) -> None:
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
        self.scorer = Scorer(model, schema.relations).to(device)
        self.comparator = model.comparator
        self.loss = make_loss(model)
        self.extra: list[Regularizer | RelationPrediction] = []
        if model.regularization is not None:
            self.extra.append(Regularizer(model.regularization))
        if model.relation_prediction:
            self.extra.append(RelationPrediction(model.relation_prediction, schema.relations))

    def forward(self, batch: Batch) -> Tensor:
        """This rank's part of the step's mean loss: Σ weight · (lhs side + rhs side) / 2 / edges of the step.

        In training with what is asked for beside it (regularisation, relation prediction); in validation without.
        """
        rows = _Parts.apply(self._look_up(batch), batch)  # type: ignore[no-untyped-call]  # a Function of torch's
        lhs, rhs = (self._loss(side, batch, rows) for side in SIDES)
        loss = (lhs + rhs) / (2 * batch.step_edges)
        if self.training and self.extra:
            edges = batch.queries["rhs"]  # each edge has one slot of either side's
            lhs, rhs = (rows[part].view(*edges.rel.shape, -1) for part in (edges.given, edges.asked))
            for objective in self.extra:
                loss = loss + objective(self.scorer, edges.rel, edges.weight, lhs, rhs) / batch.step_edges
        return loss

    def _look_up(self, batch: Batch) -> Tensor:
        """The looked-up rows [n, dim], a table after the other."""
        found = self.tables(batch.lookups)  # in whatever order the tables are sharded
        rows = [found[name].values() for name in self.table_names]
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def _loss(self, side: Side, whole: Batch, rows: list[Tensor]) -> Tensor:
        """Weighted sum of the losses of the batch's queries for `side`, a scalar; `rows` are those of each part."""
        batch = whole.queries[side]
        parts = (batch.given, batch.asked, batch.candidate)
        given, asked, candidates = (rows[part].view(len(batch.rel), -1, rows[part].shape[-1]) for part in parts)
        masked = batch.masked
        if masked is None:
            asked_id, candidate_id = (
                whole.lookups.values()[whole.parts[part]].view(len(batch.rel), -1) for part in parts[1:]
            )
            if isinstance(self.loss, Softmax) and fused_softmax.is_available(given.device, given.shape[-1]):
                losses = fused_softmax.softmax_losses(
                    self.scorer, self.comparator, side, batch, (given, asked, candidates), (asked_id, candidate_id),
                    self.loss.temperature,
                )  # fmt: skip
                return (losses * batch.weight).sum()
            masked = fused_softmax.masked_positions(batch, (asked_id, candidate_id))
        queries = self.scorer.queries(side, batch.rel, given)
        answers = self.scorer.answers(side, batch.rel, asked)
        rivals = self.scorer.rivals(side, batch.rel, candidates)
        offset = None if self.loss.is_shift_invariant else self.scorer.offset(side, batch.rel, given)
        own = self.scorer.answers(side, batch.rel, given) if batch.has_self else None
        scores = self.scorer.one_to_rivals(queries, answers, rivals, offset, own)
        if batch.correction is not None and batch.own_correction is not None:
            for_rivals = batch.correction[:, None].expand(-1, scores.shape[1], -1)
            # The known end is always there, whatever the law that the candidates are drawn by.
            for_answers = F.pad(batch.own_correction[..., None], (0, int(batch.has_self)))
            scores = scores - self.loss.temperature * torch.cat([for_answers, for_rivals], 2)
        return (self.loss(scores, masked, batch.handicap) * batch.weight).sum()


class _Parts(torch.autograd.Function):
    """The rows [n, dim] of each part, of those looked up [m, dim].

    Written out, because the taped version sorts the places in every backward pass, or adds them up one by one; here
    they come sorted with the batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        ctx.batch = batch
        return tuple(rows.index_select(0, place) for place in batch.parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        order, start = ctx.batch.order, ctx.batch.start
        return F.embedding_bag(order, torch.cat(gradients), start, mode="sum", include_last_offset=True), None
