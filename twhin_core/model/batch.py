"""A batch as the model takes it: the rows to look up, a table at a time, and the queries that they make up.

Each row is looked up once, however often it occurs in the batch, and parts of the batch name rows by their place:

    looked up:  rows of table 0 │ rows of table 1 │ …
    parts:      lhs of the edges │ rhs of the edges │ candidates for the lhs │ candidates for the rhs
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
from twhin_core.model.negatives import Chunks, Negatives, draw_edges, make_chunks
from twhin_core.model.places import by_place, unique
from twhin_core.model.proposals import Proposals
from twhin_core.model.scorer import relations_share_candidates
from twhin_core.schema import SIDES, Schema, Side


@dataclass(frozen=True)
class Queries:
    """The batch's queries for one side, in C chunks of L slots (see `negatives`); a padding slot repeats an edge."""

    given: int
    """The part with the known end of each slot's edge: C · L rows."""
    asked: int
    """The part with the true answers: C · L rows."""
    candidate: int
    """The part with the chunks' candidates, the answers' rivals: C · K rows."""
    rel: Tensor
    """int64 [C, L]."""
    weight: Tensor
    """float32 [C, L]: the edge's weight; 0 in a padding slot."""
    masked: Tensor | None
    """int64: negatives that do not count, as positions in the flattened scores [C, L, 1 + K], or [C, L, 2 + K] with
    `has_self`: candidates that are the true answer, and the known end where it is that too or in another table.
    None in a batch made on a device, where the candidates are compared with the answers as they are scored."""
    correction: Tensor | None = None
    """float32 [C, K]: logQ correction of each candidate (see `proposals`); None without."""
    own_correction: Tensor | None = None
    """float32 [C, L]: that of the true node."""
    handicap: Tensor | None = None
    """float32 [C]: logarithm of how many rows of the table each negative stands for; None without full_softmax."""
    has_self: bool = False
    """Whether each query's known end is a negative of its own, whose score follows that of the true answer."""
    self_masked: Tensor | None = None
    """bool [C, L]: where it does not count; only with `has_self`, and where `masked` is None."""


@dataclass(frozen=True)
class Batch:
    """B edges of one rank, with all that their loss needs; built on the CPU, moved by `to`."""

    lookups: KeyedJaggedTensor
    """One feature a table, all its ids, each once, as one jagged entry: an un-pooled lookup gives a row an id."""
    parts: list[Tensor]
    """int64 [n]: where each row of a part is among the m looked up."""
    order: Tensor
    """int64: the rows of all parts, one part after the other, sorted by their places."""
    start: Tensor
    """int64 [m + 1]: where in `order` each place begins, and where the last one ends."""
    queries: dict[Side, Queries]
    step_edges: int
    """Edges of this step over all ranks, which its loss is the mean of."""

    def to(self, device: torch.device) -> Batch:
        if self.order.device == device:
            return self
        return replace(
            _moved(self, device),
            parts=[part.pin_memory().to(device, non_blocking=True) for part in self.parts],
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
        weight = torch.from_numpy(edges.weight) * self._weight[rel]
        node: dict[Side, Tensor] = {"lhs": torch.from_numpy(edges.lhs), "rhs": torch.from_numpy(edges.rhs)}
        negatives = {side: self._negatives(side, rel, node[side], generator) for side in SIDES}
        requested = [(self._table[side][rel], node[side]) for side in SIDES]
        for side in SIDES:
            uniform = negatives[side].uniform
            table = self._chunk_table(side, negatives[side].chunks)
            requested.append((table.repeat_interleave(uniform.shape[1]), uniform.flatten()))
        lookups, places = self._lookups(requested)
        parts = _Parts(places[:2])
        queries = {}
        for side, given, asked, uniform in zip(SIDES, (1, 0), (0, 1), places[2:], strict=True):
            chunks = negatives[side].chunks
            rels = chunks.lay_out(rel)
            law = side, rels[:, 0], self._chunk_table(side, chunks)
            masked = negatives[side].masked(node[side], 1 + self._data.self_negatives)
            if self._data.self_negatives:
                masked = torch.cat([masked, self._self_masked(negatives[side], rel, node)])
            queries[side] = Queries(
                given=parts.of_slots(chunks, given),
                asked=parts.of_slots(chunks, asked),
                candidate=parts.of_candidates(negatives[side], places[asked], uniform),
                rel=rels,
                weight=chunks.lay_out(weight) * chunks.filled,
                masked=masked,
                correction=self._proposals.correction(*law, negatives[side].node),
                own_correction=self._proposals.correction(*law, chunks.lay_out(node[side])),
                handicap=self._handicap(law[2], negatives[side]),
                has_self=self._data.self_negatives,
            )
        return Batch(lookups, parts.made, *by_place(parts.made, len(lookups.values())), queries, step_edges)

    def _negatives(self, side: Side, rel: Tensor, node: Tensor, generator: torch.Generator) -> Negatives:
        group = self._table[side][rel] if self._by_table[side] else rel
        chunks = make_chunks(group, self._data.positives_a_chunk)
        sampled = draw_edges(chunks, self._data.in_batch_negatives, generator)
        uniform = self._proposals.draw(self._chunk_table(side, chunks), generator)
        return Negatives(chunks, torch.cat([node[sampled], uniform], 1), sampled)

    def _handicap(self, table: Tensor, negatives: Negatives) -> Tensor | None:
        """Of chunks whose answers are in the tables [C]."""
        return (self._size[table] / negatives.node.shape[1]).log() if self._data.full_softmax else None

    def _self_masked(self, negatives: Negatives, rel: Tensor, node: dict[Side, Tensor]) -> Tensor:
        """Where a query's known end is no negative of it: positions in flattened scores [C, L, 2 + K]."""
        other_table = self._table["lhs"][rel] != self._table["rhs"][rel]
        slot = negatives.chunks.lay_out(other_table | (node["lhs"] == node["rhs"])).flatten().nonzero().squeeze(1)
        return slot * (2 + negatives.node.shape[1]) + 1

    def _chunk_table(self, side: Side, chunks: Chunks) -> Tensor:
        return chunks.group if self._by_table[side] else self._table[side][chunks.group]

    def _lookups(self, requested: list[tuple[Tensor, Tensor]]) -> tuple[KeyedJaggedTensor, tuple[Tensor, ...]]:
        """Each requested row once, sorted by its table, and the places of each part of the request there."""
        first = self._size.cumsum(0) - self._size  # number all tables' rows in one line
        found, place = unique(torch.cat([first[table] + node for table, node in requested]), int(self._size.sum()))
        ends = torch.searchsorted(found, first + self._size)
        counts = ends.diff(prepend=ends.new_zeros(1))
        nodes = found - first.repeat_interleave(counts)
        lookups = KeyedJaggedTensor(keys=self._tables, values=nodes, lengths=counts.int(), stride=1)
        return lookups, place.split([len(node) for _, node in requested])


class _Parts:
    """The parts of a batch, each distinct one made once."""

    def __init__(self, ends: tuple[Tensor, ...]) -> None:
        """`ends`: the places [B] of the edges' lhs and of their rhs."""
        self.made: list[Tensor] = []
        self._ends = ends
        self._whole: dict[int, int] = {}

    def of_slots(self, chunks: Chunks, end: int) -> int:
        """The part with that end of each slot's edge."""
        if not chunks.is_identity:
            return self._add(chunks.lay_out(self._ends[end]).flatten())
        if end not in self._whole:
            self._whole[end] = self._add(self._ends[end])
        return self._whole[end]

    def of_candidates(self, negatives: Negatives, asked: Tensor, uniform: Tensor) -> int:
        """The part with the candidates: edges' own ends `asked` [B] that were drawn, and `uniform` [C · M] ones."""
        places = torch.cat([asked[negatives.sampled_edge], uniform.view(negatives.uniform.shape)], 1)
        return self._add(places.flatten())

    def _add(self, place: Tensor) -> int:
        self.made.append(place)
        return len(self.made) - 1
