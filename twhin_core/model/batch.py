"""A batch as the model takes it: edges, their negatives, and the rows to look up, a table at a time.

Row requests are listed in one order, and looked up in another:

    requested:  lhs of B edges │ rhs of B edges │ uniform lhs negatives │ uniform rhs negatives
    looked up:  rows of table 0 │ rows of table 1 │ …

`position` says where each requested row is among those looked up, so that one gather puts them back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from twhin_core.config import Model, TrainData
from twhin_core.data.edges import Edges
from twhin_core.graph.manifest import Schema
from twhin_core.model.negatives import Chunks, Negatives, in_batch_negatives, uniform_negatives
from twhin_core.model.scorer import SIDES, Side, relations_share_candidates


@dataclass(frozen=True)
class Candidates:
    """Negatives as the model scores them."""

    chunks: Chunks
    masked: Tensor
    """int64: candidates that do not count, as positions in the flattened scores [C, L, K]."""
    counts: Tensor
    """int64 [B]: how many count for each edge."""
    sampled_edge: Tensor | None
    """int64 [C, K]: the edges of the batch whose rows these are; None where rows of their own are looked up."""


@dataclass(frozen=True)
class Batch:
    """B edges of one rank, with all that their loss needs; built on the CPU, moved by `to`."""

    rel: Tensor
    """int64 [B]."""
    weight: Tensor
    """float32 [B]."""
    candidates: dict[Side, list[Candidates]]
    lookups: KeyedJaggedTensor
    """One feature a table, all its ids as one jagged entry: an un-pooled lookup gives a row an id."""
    position: Tensor | None
    """int64: where each requested row is among those looked up; None where the two orders are the same."""
    requested: list[int]
    """Lengths of the parts of the request: B, B, and one for each entry of `candidates` with rows of its own."""
    step_edges: int
    """Edges of this step over all ranks, which its loss is the mean of."""

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self

        def move(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        def move_candidates(entry: Candidates) -> Candidates:
            chunks = Chunks(move(entry.chunks.edge), move(entry.chunks.slot), move(entry.chunks.group))
            sampled = None if entry.sampled_edge is None else move(entry.sampled_edge)
            return Candidates(chunks, move(entry.masked), move(entry.counts), sampled)

        return replace(
            self,
            rel=move(self.rel),
            weight=move(self.weight),
            candidates={
                side: [move_candidates(entry) for entry in entries] for side, entries in self.candidates.items()
            },
            lookups=self.lookups.to(device, non_blocking=True),
            position=None if self.position is None else move(self.position),
        )


class BatchMaker:
    """Makes batches of a schema's edges."""

    def __init__(self, schema: Schema, model: Model, data: TrainData) -> None:
        self._data = data
        self._tables = list(schema.tables)
        self._table: dict[Side, Tensor] = {
            side: torch.tensor([self._tables.index(getattr(relation, side)) for relation in schema.relations])
            for side in SIDES
        }
        self._size = torch.tensor(list(schema.tables.values()))
        self._by_table = {side: relations_share_candidates(model, side) for side in SIDES}

    def make(self, edges: Edges, step_edges: int, generator: torch.Generator) -> Batch:
        """The batch of `edges` (at least one), with negatives drawn from `generator`."""
        rel = torch.from_numpy(edges.rel)
        node: dict[Side, Tensor] = {"lhs": torch.from_numpy(edges.lhs), "rhs": torch.from_numpy(edges.rhs)}
        negatives = {side: self._negatives(side, rel, node[side], generator) for side in SIDES}
        tables, nodes = [self._table[side][rel] for side in SIDES], [node[side] for side in SIDES]
        for side in SIDES:
            for entry in negatives[side]:
                if entry.sampled_edge is None:
                    tables.append(self._chunk_table(side, entry).repeat_interleave(entry.node.shape[1]))
                    nodes.append(entry.node.flatten())
        lookups, position = self._lookups(torch.cat(tables), torch.cat(nodes))
        return Batch(
            rel=rel,
            weight=torch.from_numpy(edges.weight),
            candidates={side: [_candidates(entry, node[side]) for entry in negatives[side]] for side in SIDES},
            lookups=lookups,
            position=position,
            requested=[len(part) for part in nodes],
            step_edges=step_edges,
        )

    def _negatives(self, side: Side, rel: Tensor, node: Tensor, generator: torch.Generator) -> list[Negatives]:
        data, negatives = self._data, []
        if data.in_batch_negatives:
            negatives.append(in_batch_negatives(rel, node, data.in_batch_negatives, data.chunk_size, generator))
        if data.global_negatives:
            group, size = rel, self._size[self._table[side]]
            if self._by_table[side]:
                group, size = self._table[side][rel], self._size
            negatives.append(uniform_negatives(group, size, data.global_negatives, data.chunk_size, generator))
        return negatives

    def _chunk_table(self, side: Side, negatives: Negatives) -> Tensor:
        group = negatives.chunks.group
        return group if self._by_table[side] else self._table[side][group]

    def _lookups(self, table: Tensor, node: Tensor) -> tuple[KeyedJaggedTensor, Tensor | None]:
        """Sorts the requested nodes by their tables; see the module's picture."""
        position = None
        if len(self._tables) > 1:
            order = table.argsort(stable=True)
            position = torch.empty_like(order)
            position[order] = torch.arange(len(order))
            node = node[order]
        counts = table.bincount(minlength=len(self._tables))
        return KeyedJaggedTensor(keys=self._tables, values=node, lengths=counts.int(), stride=1), position


def _candidates(negatives: Negatives, true_node: Tensor) -> Candidates:
    masked, count = negatives.masked(true_node), negatives.node.shape[1]
    masked_in_slot = (masked // count).bincount(minlength=negatives.chunks.edge.numel())
    return Candidates(negatives.chunks, masked, count - masked_in_slot[negatives.chunks.slot], negatives.sampled_edge)
