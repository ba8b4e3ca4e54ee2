"""The model: embedding tables, the scorer, and the loss of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig
from torchrec.modules.embedding_configs import DataType

from twhin_core.config import Model
from twhin_core.graph.manifest import Schema
from twhin_core.model.batch import Batch
from twhin_core.model.losses import make_loss
from twhin_core.model.scorer import Scorer, Side

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
        self.loss = make_loss(model)

    def forward(self, batch: Batch) -> Tensor:
        """This rank's part of the step's mean loss: Σ weight · (lhs side + rhs side) / 2 / edges of the step."""
        lhs, rhs, lhs_negatives, rhs_negatives = self._look_up(batch)
        loss = self._loss(batch, "lhs", rhs, lhs, lhs_negatives) + self._loss(batch, "rhs", lhs, rhs, rhs_negatives)
        return loss / (2 * batch.step_edges)

    def _look_up(self, batch: Batch) -> tuple[Tensor, ...]:
        """The requested rows: lhs [B, dim], rhs [B, dim], and the uniform candidates of each side [C·M, dim]."""
        found = self.tables(batch.lookups)  # in whatever order the tables are sharded
        rows = torch.cat([found[name].values() for name in self.table_names])
        parts: tuple[Tensor, ...] = rows.index_select(0, batch.position).split(batch.requested)
        return parts

    def _loss(self, batch: Batch, side: Side, given: Tensor, asked: Tensor, uniform: Tensor) -> Tensor:
        """Weighted sum of the losses of the batch's queries for `side`; a scalar."""
        slots = batch.queries[side]
        chunks, length = slots.rel.shape
        candidates = torch.cat(
            [asked.index_select(0, slots.sampled_edge).view(chunks, -1, asked.shape[-1]),
             uniform.view(chunks, -1, asked.shape[-1])], 1
        )  # fmt: skip
        if slots.edge is not None:
            given, asked = given.index_select(0, slots.edge), asked.index_select(0, slots.edge)
        given, asked = given.view(chunks, length, -1), asked.view(chunks, length, -1)

        queries, offset = self.scorer.queries(side, slots.rel, given)
        answers = self.scorer.answers(side, slots.rel, asked)
        rivals = self.scorer.answers(side, slots.rel[:, :1].expand(-1, candidates.shape[1]), candidates)
        if self.loss.is_shift_invariant:
            offset = None
        positive = self.scorer.one_to_one(queries, answers, offset)
        negatives = self.scorer.all_pairs(queries, rivals, offset)
        if slots.correction is not None and slots.own_correction is not None:
            positive = positive - self.loss.temperature * slots.own_correction
            negatives = negatives - self.loss.temperature * slots.correction[:, None, :]
        return (self.loss(positive, negatives, slots.masked) * slots.weight).sum()
