"""Batches made on the device that trains on them: the host reads and lays out edges, the device does the rest.

A host thread batches a few million edges per second; a GPU trains on ten times as many. The device therefore draws the
negatives, gathers the rows and finds accidental hits, and never synchronizes with the host: every shape follows from
the edges' relations, which the host knows. A row that occurs twice in a batch is looked up twice; the tables' kernels
sum its gradients.

Where all edges share their candidates, as with a single relation, the layout depends on the number of edges alone. The
host then need not see the edges at all, which can be shuffled on the device (see `training/device_source`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from twhin_core.config import Model, TrainData
from twhin_core.config.relation import negative_relations
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import Frequencies
from twhin_core.data.negative_lists import NegativeLists
from twhin_core.model.batch import Batch, Queries
from twhin_core.model.batch_maker import BaseMaker
from twhin_core.model.device_edges import DeviceEdges
from twhin_core.model.explicit_negatives import Chosen
from twhin_core.model.negatives import ChunkLayout, draw_edges, lay_out_chunks
from twhin_core.model.row_requests import RowRequest, repeated
from twhin_core.model.sorting import sort_on_device
from twhin_core.schema import OTHER, SIDES, Schema, Side

Sided = dict[Side, Tensor]

LARGEST_STRIDE = 16_384
"""The most entries that a table's ids are split into; the lookup kernel gives each entry a warp."""


@dataclass(frozen=True)
class LaidOutSide:
    """One side of a step's edges, laid out on the host."""

    chunks: ChunkLayout
    table: Tensor
    """int64 [C]: the table of each chunk's answers."""
    edges_of_table: list[int]
    """How many edges have their node on this side in each table."""
    chunks_of_table: list[int]
    """How many chunks have their answers in each table."""


@dataclass(frozen=True)
class LaidOutEdges:
    """B edges of one rank, laid out on the host; `to` makes the batch."""

    maker: DeviceBatchMaker
    edges: DeviceEdges
    """On the device, or pinned on the host."""
    sides: dict[Side, LaidOutSide]
    seed: int
    step_edges: int
    is_uniform: bool
    """Whether the layout depends on B alone."""

    def to(self, device: torch.device) -> Batch:
        self.maker.seed(self.seed)
        return self.maker.make(self, device)


class DeviceBatchMaker(BaseMaker):
    """Makes batches from a schema's edges on a device."""

    def __init__(
        self,
        schema: Schema,
        model: Model,
        data: TrainData,
        frequencies: Frequencies | None,
        device: torch.device,
        are_joined: bool = False,
        explicit: NegativeLists | None = None,
    ) -> None:
        """`are_joined`: whether the tables are the parts of a single one, whose rows batches then name."""
        super().__init__(schema, model, data, frequencies, device, explicit)
        self.device, self.generator = device, torch.Generator(device)
        self._host_table = {side: self._table[side].cpu() for side in SIDES}
        weights = [relation.weight for relation in schema.relations]
        self._weight = torch.tensor(weights, device=device) if any(weight != 1 for weight in weights) else None
        self._first_row = self._size.cumsum(0) - self._size if are_joined else None
        never_trained = negative_relations(schema.relations)
        trained = [rel for rel, name in enumerate(schema.names) if name not in never_trained]
        self._one_relation = trained[0]
        self.is_uniform = all(
            len(trained) == 1 or (self._by_table[side] and len(set(self._host_table[side][trained].tolist())) == 1)
            for side in SIDES
        )
        """Whether all edges share their candidates, on either side."""
        self._uniform: dict[int, dict[Side, LaidOutSide]] = {}

    def lay_out(self, edges: Edges | DeviceEdges, step_edges: int, seed: int) -> LaidOutEdges:
        """The host's share of making a batch of `edges`, at least one; `seed` determines the negatives.

        Edges that are on the device already must be uniform.
        """
        if isinstance(edges, Edges):
            columns = (edges.lhs, edges.rel, edges.rhs, edges.weight)
            lhs, rel, rhs, weight = (self._pinned(torch.from_numpy(column)) for column in columns)
            edges = DeviceEdges(lhs, rel, rhs, weight)
        if self.is_uniform:
            sides = self._uniform_sides(len(edges))
        else:
            sides = {side: self._lay_out_side(side, edges.rel) for side in SIDES}
        return LaidOutEdges(self, edges, sides, seed, step_edges, self.is_uniform)

    def _uniform_sides(self, count: int) -> dict[Side, LaidOutSide]:
        """The layout of `count` edges, on the device."""
        if count not in self._uniform:
            rel = torch.full((count,), self._one_relation)
            of_first = {side: self._lay_out_side(side, rel) for side in SIDES}
            self._uniform[count] = {
                side: replace(
                    of, chunks=self._chunks(of.chunks, count, self.device), table=_moved(of.table, self.device)
                )
                for side, of in of_first.items()
            }
        return self._uniform[count]

    def _lay_out_side(self, side: Side, rel: Tensor) -> LaidOutSide:
        table, tables = self._host_table[side][rel], len(self._tables)
        chunks = lay_out_chunks(table if self._by_table[side] else rel, self._data.positives_per_chunk)
        of_chunk = chunks.group if self._by_table[side] else self._host_table[side][chunks.group]
        pinned: dict[str, Any] = {name: self._pinned(value) for name, value in _copied(chunks).items()}
        return LaidOutSide(
            chunks=replace(chunks, **pinned),
            table=self._pinned(of_chunk),
            edges_of_table=table.bincount(minlength=tables).tolist(),
            chunks_of_table=of_chunk.bincount(minlength=tables).tolist(),
        )

    def _pinned(self, value: Tensor) -> Tensor:
        """On the host, where a GPU can copy it from while the host goes on."""
        return value.pin_memory() if self.device.type == "cuda" else value

    def seed(self, seed: int) -> None:
        """Makes the next batch draw the negatives of `seed`."""
        self.generator.manual_seed(seed)

    def make(self, host: LaidOutEdges, device: torch.device) -> Batch:
        """The batch, with negatives drawn on the device; the host never waits for it."""
        assert device == self.device
        generator, moved = self.generator, host.edges.to(device)
        node: Sided = {"lhs": moved.lhs, "rhs": moved.rhs}
        rel = moved.rel
        weight = moved.weight if self._weight is None else moved.weight * self._weight[rel]
        chunks = {side: self._chunks(host.sides[side].chunks, len(rel), device) for side in SIDES}
        table = {side: _moved(host.sides[side].table, device) for side in SIDES}
        uniform = {side: self._sampler.draw(table[side], generator) for side in SIDES}
        chosen = self._choose(chunks["rhs"], rel, node, generator)
        lookups, edges, drawn, explicit = self._rows(host, node, rel, table, uniform, chosen)
        gathers: list[Tensor] = []
        queries: dict[Side, Queries] = {}
        for side, layout in chunks.items():
            rels = layout.lay_out(rel)
            candidate, candidate_node = drawn[side].view(uniform[side].shape), uniform[side]
            if self._data.in_batch_negatives:
                sampled = draw_edges(layout, self._data.in_batch_negatives, generator)
                candidate = torch.cat([edges[side][sampled], candidate], 1)
                candidate_node = torch.cat([node[side][sampled], candidate_node], 1)
            of_chunks = side, rels[:, 0], table[side]
            weights = layout.lay_out(weight)
            queries[side] = Queries(
                node=len(gathers),
                answer=len(gathers) + 1,
                candidate=len(gathers) + 2,
                rel=rels,
                weight=weights if layout.is_identity else weights * layout.filled,
                masked=None,
                correction=self._sampler.correction(*of_chunks, candidate_node),
                answer_correction=self._sampler.correction(*of_chunks, layout.lay_out(node[side])),
                log_weight=self._log_weight(table[side], candidate.shape[1]),
                has_self=self._data.self_negatives,
                self_masked=self._is_no_negative(layout, rel, node) if self._data.self_negatives else None,
                **self._priors(side, rels[:, 0], layout, node, candidate_node),
            )
            # Without a layout, both sides gather the same tensors, which are then read once.
            ends = edges[OTHER[side]], edges[side]
            gathers += ends if layout.is_identity else [layout.lay_out(end).flatten() for end in ends]
            gathers.append(candidate.flatten())
        if chosen is not None and explicit is not None:
            queries["rhs"] = self._with_explicit(queries["rhs"], chosen, len(gathers))
            gathers.append(explicit)
        if lookups is None:
            return Batch(None, gathers, None, None, queries, host.step_edges)
        order, start = sort_on_device(gathers, len(lookups.values()))
        return Batch(lookups, gathers, order, start, queries, host.step_edges)

    def _rows(
        self, host: LaidOutEdges, node: Sided, rel: Tensor, table: Sided, uniform: Sided, chosen: Chosen | None
    ) -> tuple[KeyedJaggedTensor | None, Sided, Sided, Tensor | None]:
        """The lookups, and the rows there of the edges, the drawn candidates and the explicit negatives.

        Without lookups, they are rows of the joined tables.
        """
        if self._first_row is None:
            lookups, index = self._lookups(self._requests(host, node, rel, table, uniform, chosen))
            edges: Sided = {"lhs": index[0], "rhs": index[2]}
            drawn: Sided = {"lhs": index[1], "rhs": index[3]}
            return lookups, edges, drawn, None if chosen is None else index[4]
        edges = {side: self._joined(node[side], self._table[side], rel) for side in SIDES}
        drawn = {side: self._joined(uniform[side], table[side][:, None], None) for side in SIDES}
        if chosen is None:
            return None, edges, drawn, None
        return None, edges, drawn, self._joined(chosen.node.flatten(1), table["rhs"][:, None], None).flatten()

    def _joined(self, node: Tensor, table: Tensor, rel: Tensor | None) -> Tensor:
        """Rows of the joined tables. `table`: of each node, or of each relation if these are given."""
        assert self._first_row is not None
        if len(self._first_row) == 1:
            return node
        first = self._first_row[table]
        return node + (first if rel is None else first[rel])

    def _requests(
        self, host: LaidOutEdges, node: Sided, rel: Tensor, table: Sided, uniform: Sided, chosen: Chosen | None
    ) -> list[RowRequest]:
        """For each side, the edges' nodes, then the candidates drawn from the tables; last, explicit negatives."""
        requests = []
        for side in SIDES:
            laid_out, drawn = host.sides[side], uniform[side].shape[1]
            requests.append(RowRequest(node[side], partial(self._table[side].take, rel), laid_out.edges_of_table))
            counts = [drawn * count for count in laid_out.chunks_of_table]
            requests.append(RowRequest(uniform[side].flatten(), partial(repeated, table[side], drawn), counts))
        if chosen is not None:
            each = chosen.node[0].numel()
            counts = [each * count for count in host.sides["rhs"].chunks_of_table]
            requests.append(RowRequest(chosen.node.flatten(), partial(repeated, table["rhs"], each), counts))
        return requests

    def _chunks(self, chunks: ChunkLayout, edges: int, device: torch.device) -> ChunkLayout:
        if chunks.group.device == device:
            return chunks
        moved: dict[str, Any] = {name: _moved(value, device) for name, value in _copied(chunks).items()}
        if chunks.is_identity:
            everything = torch.arange(edges, device=device)
            moved |= {"edge": everything.view(chunks.edge.shape), "order": everything}
            moved["filled"] = torch.ones(chunks.edge.shape, dtype=torch.bool, device=device)
        return replace(chunks, **moved)

    def _lookups(self, requests: list[RowRequest]) -> tuple[KeyedJaggedTensor, list[Tensor]]:
        """All requested rows, sorted by table, and for each request the indices of its rows there."""
        per_table = np.sum([request.counts for request in requests], 0)
        if all(request.table is not None for request in requests):
            first, index = 0, [torch.empty(0)] * len(requests)
            order = sorted(range(len(requests)), key=lambda number: requests[number].table or 0)
            for number in order:
                count = len(requests[number].node)
                index[number] = torch.arange(first, first + count, device=self.device)
                first += count
            values = torch.cat([requests[number].node for number in order])
        else:
            by_table = torch.cat([request.of_table() for request in requests]).argsort(stable=True)
            inverse = torch.empty_like(by_table)
            inverse[by_table] = torch.arange(len(by_table), device=self.device)
            index = list(inverse.split([len(request.node) for request in requests]))
            values = torch.cat([request.node for request in requests])[by_table]
        stride = int(min(max(per_table.max(), 1), LARGEST_STRIDE))
        lengths = per_table[:, None] // stride + (np.arange(stride) < per_table[:, None] % stride)
        lookups = KeyedJaggedTensor(
            keys=self._tables,
            values=values,
            lengths=_moved(self._pinned(torch.from_numpy(lengths.astype(np.int32).ravel())), self.device),
            stride=stride,
            length_per_key=per_table.tolist(),
        )
        return lookups, index


def _copied(chunks: ChunkLayout) -> dict[str, Tensor]:
    """The tensors of a layout that are copied to the device, by name; the others are made there."""
    made = ("edge", "order", "filled") if chunks.is_identity else ()
    tensors = {field.name: getattr(chunks, field.name) for field in fields(chunks) if field.name not in made}
    return {name: value for name, value in tensors.items() if isinstance(value, Tensor)}


def _moved(value: Tensor, device: torch.device) -> Tensor:
    return value.to(device, non_blocking=True)
