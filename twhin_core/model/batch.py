"""A batch as the model takes it: edges, their negatives, and the rows to look up, a table at a time.

Row requests are listed in one order and looked up in another, each row once:

    requested:  lhs of B edges │ rhs of B edges │ uniform lhs negatives │ uniform rhs negatives
    looked up:  rows of table 0 │ rows of table 1 │ …

`position` says where each requested row is among those looked up, so that one gather puts them back.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from twhin_core.config import Model, TrainData
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import Frequencies
from twhin_core.graph.manifest import Schema
from twhin_core.model.negatives import Chunks, Negatives, draw_edges, make_chunks
from twhin_core.model.proposals import Proposals
from twhin_core.model.scorer import SIDES, Side, relations_share_candidates


@dataclass(frozen=True)
class Queries:
    """The batch's queries for one side, in C chunks of L slots (see `negatives`), and their answers' rivals."""

    edge: Tensor | None
    """int64 [C · L]: the edge in each slot; None where the slots, in order, are the edges."""
    rel: Tensor
    """int64 [C, L]."""
    weight: Tensor
    """float32 [C, L]: the edge's weight; 0 in a padding slot."""
    sampled_edge: Tensor
    """int64 [C · N]: the edges whose nodes are each chunk's in-batch candidates, which come first."""
    masked: Tensor
    """int64: candidates that are the true node, as positions in the flattened scores [C, L, K]."""
    correction: Tensor | None = None
    """float32 [C, K]: logQ correction of each candidate (see `proposals`); None without."""
    own_correction: Tensor | None = None
    """float32 [C, L]: that of the true node."""


@dataclass(frozen=True)
class Batch:
    """B edges of one rank, with all that their loss needs; built on the CPU, moved by `to`."""

    queries: dict[Side, Queries]
    lookups: KeyedJaggedTensor
    """One feature a table, all its ids, each once, as one jagged entry: an un-pooled lookup gives a row an id."""
    position: Tensor
    """int64: where each requested row is among those looked up."""
    requested: list[int]
    """Lengths of the parts of the request: B, B, and the uniform candidates of each side."""
    step_edges: int
    """Edges of this step over all ranks, which its loss is the mean of."""

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        return replace(
            _moved(self, device),
            queries={side: _moved(queries, device) for side, queries in self.queries.items()},
            lookups=self.lookups.pin_memory().to(device, non_blocking=True),
        )


Moved = TypeVar("Moved", Batch, Queries)


def _moved(value: Moved, device: torch.device) -> Moved:
    """A copy whose tensors are on the device."""
    tensors: dict[str, Any] = {
        field.name: entry.pin_memory().to(device, non_blocking=True)
        for field in fields(value)
        if isinstance(entry := getattr(value, field.name), Tensor)
    }
    return replace(value, **tensors)


class BatchMaker:
    """Makes batches of a schema's edges."""

    def __init__(self, schema: Schema, model: Model, data: TrainData, ends: Frequencies | None = None) -> None:
        """`ends`: of the training edges, as `Proposals` needs them."""
        self._data = data
        self._proposals = Proposals(schema, data, ends)
        self._tables = list(schema.tables)
        self._table: dict[Side, Tensor] = {
            side: torch.tensor([self._tables.index(getattr(relation, side)) for relation in schema.relations])
            for side in SIDES
        }
        self._size = torch.tensor(list(schema.tables.values()))
        self._weight = torch.tensor([relation.weight for relation in schema.relations])
        self._by_table = {
            side: not data.in_batch_negatives and relations_share_candidates(model, side) for side in SIDES
        }

    def make(self, edges: Edges, step_edges: int, generator: torch.Generator) -> Batch:
        """The batch of `edges` (at least one), with negatives drawn from `generator`."""
        rel = torch.from_numpy(edges.rel)
        node: dict[Side, Tensor] = {"lhs": torch.from_numpy(edges.lhs), "rhs": torch.from_numpy(edges.rhs)}
        negatives = {side: self._negatives(side, rel, node[side], generator) for side in SIDES}
        tables = [self._table[side][rel] for side in SIDES]
        nodes = [node[side] for side in SIDES]
        for side in SIDES:
            uniform = negatives[side].uniform
            tables.append(self._chunk_table(side, negatives[side].chunks).repeat_interleave(uniform.shape[1]))
            nodes.append(uniform.flatten())
        lookups, position = self._lookups(torch.cat(tables), torch.cat(nodes))
        weight = torch.from_numpy(edges.weight) * self._weight[rel]
        return Batch(
            queries={side: self._queries(side, negatives[side], rel, weight, node[side]) for side in SIDES},
            lookups=lookups,
            position=position,
            requested=[len(part) for part in nodes],
            step_edges=step_edges,
        )

    def _negatives(self, side: Side, rel: Tensor, node: Tensor, generator: torch.Generator) -> Negatives:
        group = self._table[side][rel] if self._by_table[side] else rel
        chunks = make_chunks(group, self._data.positives_a_chunk)
        sampled = draw_edges(chunks, group, self._data.in_batch_negatives, generator)
        uniform = self._proposals.draw(self._chunk_table(side, chunks), generator)
        return Negatives(chunks, torch.cat([node[sampled], uniform], 1), sampled)

    def _queries(self, side: Side, negatives: Negatives, rel: Tensor, weight: Tensor, node: Tensor) -> Queries:
        chunks, rels = negatives.chunks, rel[negatives.chunks.edge]
        law = side, rels[:, 0], self._chunk_table(side, chunks)
        return Queries(
            edge=None if chunks.is_identity else chunks.edge.flatten(),
            rel=rels,
            weight=weight[chunks.edge] * chunks.filled,
            sampled_edge=negatives.sampled_edge.flatten(),
            masked=negatives.masked(node),
            correction=self._proposals.correction(*law, negatives.node),
            own_correction=self._proposals.correction(*law, node[chunks.edge]),
        )

    def _chunk_table(self, side: Side, chunks: Chunks) -> Tensor:
        return chunks.group if self._by_table[side] else self._table[side][chunks.group]

    def _lookups(self, table: Tensor, node: Tensor) -> tuple[KeyedJaggedTensor, Tensor]:
        """Each requested node once, sorted by its table; see the module's picture."""
        first = self._size.cumsum(0) - self._size  # number all tables' rows in one line
        found, position = _unique(first[table] + node, int(self._size.sum()))
        ends = torch.searchsorted(found, first + self._size)
        counts = ends.diff(prepend=ends.new_zeros(1))
        nodes = found - first.repeat_interleave(counts)
        return KeyedJaggedTensor(keys=self._tables, values=nodes, lengths=counts.int(), stride=1), position


def _unique(values: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The values, all below `limit`, each once and sorted, and where each of them is among those."""
    if limit > 64 * len(values):
        found, position = torch.unique(values, return_inverse=True)
        return found, position
    # Ticking them off takes less time than sorting them, as long as there are not many more values that might occur.
    occurs = torch.zeros(limit, dtype=torch.bool)
    occurs[values] = True
    found = occurs.nonzero().squeeze(1)
    place = torch.empty(limit, dtype=torch.int64)
    place[found] = torch.arange(len(found))
    return found, place[values]
