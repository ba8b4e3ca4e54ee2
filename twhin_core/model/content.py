"""Content of nodes beside their ids: θ_v = id row + W·x_v + Σ rows of its categories.

x_v is in a table that is read and never trained, sharded like the others; W and the rows of categories, the tower, are
on every rank. A node without content has x = 0 and no category, so its vector is its id row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, JaggedTensor, KeyedJaggedTensor

from twhin_core.model.tower import Tower
from twhin_core.schema import ContentShape, Schema

SUFFIX = "@content"
"""Of the tables' names, so that none equals that of a table."""
ONE_IN = 8
"""Of so many nodes, predictions are fitted to all but one."""


class Predictor(nn.Module):
    """What content says of a node's id row, fitted to the rows of nodes with edges and of no effect on these.

    A prediction by least squares is shorter than what it predicts, the more so the less content tells, and a dot
    product would rank new nodes after all others: so this also learns what makes them as long. Where content tells
    nothing, predictions are noise: so it learns how far to trust them, from nodes that they are not fitted to.
    """

    def __init__(self, shape: ContentShape, dim: int) -> None:
        super().__init__()
        self.tower = Tower(shape, dim)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, content: Tensor, rows: Tensor, nodes: Tensor) -> Tensor:
        """What is minimized, for each of the id `rows`, [n, dim], of `nodes`, [n]; 0 without content: [n].

        With the scale s = exp(a), it is |row - p|² + s²·|p|² / 2 - a·|row|² of the nodes that are fitted, p being
        constant after the first term. The sum over rows is least where s²·Σ|p|² = Σ|row|². Of the other nodes, it is
        b²·|p|² / 2 - b·⟨p, row⟩, p being constant, least where the slope is b = Σ⟨p, row⟩ / Σ|p|²: 1 if predictions
        hold, 0 if they are noise.
        """
        rows, predicted = rows.detach(), self.tower(content).to(rows.dtype)
        fixed = predicted.detach()
        longer = (2 * self.log_scale).exp() * fixed.square().sum(1) / 2
        fitted = (rows - predicted).square().sum(1) + longer - self.log_scale * rows.square().sum(1)
        others = self.slope.square() * fixed.square().sum(1) / 2 - self.slope * (fixed * rows).sum(1)
        total: Tensor = torch.where(nodes % ONE_IN != 0, fitted, others)
        return total * content.any(1)


class ContentTables(nn.Module):
    """The content of all tables that have some, by row: float32 [rows, shape.stored_width]."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.of = nn.ModuleDict()
        for name, shape in schema.content.items():
            self.of[name] = EmbeddingCollection(
                tables=[
                    EmbeddingConfig(
                        name=name + SUFFIX,
                        num_embeddings=schema.tables[name],
                        embedding_dim=shape.stored_width,
                        feature_names=[name],
                    )
                ],
                device=torch.device("meta"),
            )

    def look_up(self, table: str, lookups: KeyedJaggedTensor) -> Tensor:
        """The content of a table's looked-up rows, [n, shape.stored_width]."""
        ids = lookups[table]
        alone = KeyedJaggedTensor(keys=[table], values=ids.values(), lengths=ids.lengths(), stride=1)
        with torch.no_grad():
            found: dict[str, JaggedTensor] = self.of[table](alone)
            values: Tensor = found[table].values()
            return values


class LocalContent(nn.Module):
    """Replaces one table's EmbeddingCollection in a process that trains alone on a CPU, with the same names."""

    def __init__(self, table: str, rows: int, shape: ContentShape) -> None:
        super().__init__()
        self._table, self._rows = table, torch.zeros(rows, shape.stored_width)
        self.embeddings = nn.ModuleDict({table + SUFFIX: nn.Module()})
        self.embeddings[table + SUFFIX].register_buffer("weight", self._rows)

    def forward(self, lookups: KeyedJaggedTensor) -> dict[str, Any]:
        ids = lookups[self._table]
        return {self._table: JaggedTensor(self._rows.index_select(0, ids.values()), lengths=ids.lengths())}
