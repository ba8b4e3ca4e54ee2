"""The model: embedding tables, the scorer, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig

from twhin_core.config import Model
from twhin_core.graph.manifest import Schema
from twhin_core.model.batch import Batch
from twhin_core.model.losses import make_loss
from twhin_core.model.scorer import Scorer, Side


class Twhin(nn.Module):
    """`forward` gives the loss of a batch; the tables may live on the meta device until they are sharded."""

    def __init__(self, model: Model, schema: Schema, table_device: torch.device, device: torch.device) -> None:
        super().__init__()
        self.table_names = list(schema.tables)
        self.tables = EmbeddingCollection(
            tables=[
                EmbeddingConfig(name=name, num_embeddings=size, embedding_dim=model.dim, feature_names=[name])
                for name, size in schema.tables.items()
            ],
            device=table_device,
        )
        self.scorer = Scorer(model, len(schema.relations)).to(device)
        self.loss = make_loss(model)

    def forward(self, batch: Batch) -> Tensor:
        """This rank's part of the step's mean loss: Σ weight · (lhs side + rhs side) / 2 / edges of the step."""
        lhs, rhs, *uniform = self._look_up(batch)
        negatives = iter(uniform)
        loss = self._side(batch, "lhs", lhs, rhs, negatives) + self._side(batch, "rhs", lhs, rhs, negatives)
        return (batch.weight * loss).sum() / (2 * batch.step_edges)

    def _look_up(self, batch: Batch) -> tuple[Tensor, ...]:
        """The requested rows: lhs [B, dim], rhs [B, dim], and the uniform negatives of each side [C·K, dim]."""
        found = self.tables(batch.lookups)  # in whatever order the tables are sharded
        rows = torch.cat([found[name].values() for name in self.table_names])
        if batch.position is not None:
            rows = rows.index_select(0, batch.position)
        parts: tuple[Tensor, ...] = rows.split(batch.requested)
        return parts

    def _side(self, batch: Batch, side: Side, lhs: Tensor, rhs: Tensor, uniform: Iterator[Tensor]) -> Tensor:
        """Loss [B] of the batch's edges as answers to their query for `side`."""
        asked, given = (lhs, rhs) if side == "lhs" else (rhs, lhs)
        reduced = []
        for entry in batch.candidates[side]:
            chunks = entry.chunks
            rows = next(uniform) if entry.sampled_edge is None else _rows(asked, entry.sampled_edge)
            candidates = rows.view(len(chunks.group), -1, rows.shape[-1])
            scores = self.scorer.candidates(side, batch.rel[chunks.edge], _rows(given, chunks.edge), candidates)
            reduced.append(self.loss.reduce(scores, entry.masked).flatten()[chunks.slot])
        counts = [entry.counts for entry in batch.candidates[side]]
        return self.loss.combine(self.scorer.edges(side, batch.rel, lhs, rhs), reduced, counts)


def _rows(vectors: Tensor, index: Tensor) -> Tensor:
    """`vectors[index]`; the backward pass of plain indexing is several times slower on a CPU."""
    return vectors.index_select(0, index.flatten()).view(*index.shape, -1)
