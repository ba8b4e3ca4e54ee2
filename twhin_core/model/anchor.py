"""Holds nodes near their vectors of an earlier version: Σ_v λ·c_v·|θ_v - θ°_v|² over all matched nodes v.

A step only has the rows of its batch. Let the training edges number E, and let node v be at n_v of their ends. The term
of the whole sum per edge, which belongs beside the mean loss of an edge, is

    R/E,  R = λ·Σ_v c_v·|θ_v - θ°_v|²

and each step estimates it without bias, from two kinds of nodes.

Nodes with training edges (n_v > 0) appear at exactly n_v edge ends per epoch. A step of B edges, drawn from all E, adds

    1/B · Σ_{ends v of the step's edges} λ·c_v/n_v · |θ_v - θ°_v|²

whose expectation is 1/B · Σ_v (B·n_v/E)·(λ·c_v/n_v)·|…|², the sum of their terms over E. Over an epoch, B times this
is exactly their part of R, if no row moved.

Nodes without any (n_v = 0) move only as negatives, so their terms come from the uniform draws. Of K draws from the
N rows of a table on each of W ranks, each is v with probability 1/N, and each draw of such a node adds

    1/W · N/K · λ·c_v/E · |θ_v - θ°_v|²

which sums to λ·c_v/E·|…|² in expectation, over draws and ranks. If negatives are drawn by degree, or none are drawn
from a table, its nodes without edges are never touched, and need no holding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, JaggedTensor, KeyedJaggedTensor

from twhin_core.config import Model
from twhin_core.model.batch import Batch
from twhin_core.schema import SIDES, Schema

COLUMNS = 4
"""Columns of an anchor's row after θ°: the factors of an edge end, λ·c_v/n_v, and of a draw, λ·c_v/E, one of them 0;
and two unused ones, because the kernels need a multiple of 4."""
SUFFIX = "@anchor"
"""Of the tables' names, so that none equals that of a table."""


class Anchors(nn.Module):
    """The anchors of all tables, by row: float32 [rows, dim + `COLUMNS`]. They are read and never trained."""

    def __init__(self, model: Model, schema: Schema, in_batch: int, device: torch.device) -> None:
        """
        Args:
            in_batch: in-batch negatives per chunk, which come first among its candidates.
            device: of all tensors but the rows, which are on the meta device until they are sharded.
        """
        super().__init__()
        self._dim, self._names, self._in_batch = model.dim, list(schema.tables), in_batch
        self.tables: nn.Module = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=name + SUFFIX,
                    num_embeddings=size,
                    embedding_dim=model.dim + COLUMNS,
                    feature_names=[name],
                )
                for name, size in schema.tables.items()
            ],
            device=torch.device("meta"),
        )
        self.has_unseen = True
        """Whether a matched node has no training edges."""
        sizes = torch.tensor(list(schema.tables.values()), device=device)
        self.register_buffer("_size", sizes.double(), persistent=False)
        for side in SIDES:
            numbers = torch.from_numpy(schema.table_numbers[side]).to(device)
            self.register_buffer(f"_table_{side}", numbers, persistent=False)

    def forward(self, batch: Batch, rows: Sequence[Tensor], world_size: int) -> Tensor:
        """This rank's part of the step's estimate of R/E, a scalar. `rows`: those of each gather, [n, dim]."""
        looked_up = None if batch.lookups is None else self._look_up(batch.lookups)

        def terms(gather: int, column: int) -> Tensor:
            """The factor of each row of a gather times its squared distance: [n]."""
            index = batch.gathers[gather]
            with torch.no_grad():
                tables: Any = self.tables
                found = tables.gather(index) if looked_up is None else looked_up.index_select(0, index)
            apart = rows[gather].float() - found[:, : self._dim]
            terms: Tensor = found[:, self._dim + column] * apart.square().sum(1)
            return terms

        edges = batch.queries["rhs"]  # each edge has exactly one slot
        is_edge = (edges.weight > 0).flatten()  # not padding
        of_ends = terms(edges.node, 0) + terms(edges.answer, 0)
        total = (of_ends * is_edge).sum() / batch.step_edges
        if self.has_unseen:
            per_draw = self._per_draw(batch)
            for side in SIDES:
                drawn = terms(batch.queries[side].candidate, 1).view(len(per_draw[side]), -1)[:, self._in_batch :]
                total = total + (drawn * per_draw[side][:, None]).sum() / world_size
        return total

    def _look_up(self, lookups: KeyedJaggedTensor) -> Tensor:
        with torch.no_grad():
            found: dict[str, JaggedTensor] = self.tables(lookups)
            return torch.cat([found[name].values() for name in self._names])

    def _per_draw(self, batch: Batch) -> dict[str, Tensor]:
        """N/K of each chunk's table: float32 [C] for each side."""
        table = {side: self.get_buffer(f"_table_{side}")[batch.queries[side].rel[:, 0]] for side in SIDES}
        draws = torch.zeros_like(self.get_buffer("_size"))
        for side in SIDES:
            of = batch.queries[side]
            each = len(batch.gathers[of.candidate]) // len(of.rel) - self._in_batch
            draws = draws.index_add(0, table[side], torch.full_like(table[side], each, dtype=draws.dtype))
        share = (self.get_buffer("_size") / draws.clamp(min=1)).float()
        return {side: share[table[side]] for side in SIDES}


class LocalAnchors(nn.Module):
    """Replaces the anchors' EmbeddingCollection in a process that trains alone on a CPU, with the same names."""

    def __init__(self, model: Model, schema: Schema) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict()
        self._rows = {}
        for name, size in schema.tables.items():
            self._rows[name] = torch.zeros(size, model.dim + COLUMNS)
            self.embeddings[name + SUFFIX] = nn.Module()
            self.embeddings[name + SUFFIX].register_buffer("weight", self._rows[name])

    def forward(self, lookups: KeyedJaggedTensor) -> dict[str, Any]:
        """The anchors of looked-up rows, float32 [n, dim + `COLUMNS`] for each table."""
        return {
            name: JaggedTensor(self._rows[name].index_select(0, ids.values()), lengths=ids.lengths())
            for name, ids in lookups.to_dict().items()
        }


class JoinedAnchors(nn.Module):
    """The same for a process that trains alone on a GPU: the parts of one large table."""

    def __init__(self, model: Model, schema: Schema, device: torch.device) -> None:
        super().__init__()
        self._rows = torch.zeros(sum(schema.tables.values()), model.dim + COLUMNS, device=device)
        self.embeddings = nn.ModuleDict()
        first = 0
        for name, size in schema.tables.items():
            self.embeddings[name + SUFFIX] = nn.Module()
            self.embeddings[name + SUFFIX].register_buffer("weight", self._rows[first : first + size])
            first += size

    def gather(self, rows: Tensor) -> Tensor:
        """The anchors of rows of the joined tables: int64 [n] → float32 [n, dim + `COLUMNS`]."""
        return self._rows.index_select(0, rows)
