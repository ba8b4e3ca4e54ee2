"""Makes batches from edges: draws negatives, lays out queries, and looks up each row once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from twhin_core.config import Model, TrainData
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import Frequencies
from twhin_core.data.negative_lists import NegativeLists
from twhin_core.model.batch import Batch, Explicit, Queries
from twhin_core.model.explicit_negatives import Chosen, ExplicitSampler
from twhin_core.model.log_shares import LogShares
from twhin_core.model.negative_sampler import NegativeSampler
from twhin_core.model.negatives import (
    ChunkLayout,
    Negatives,
    at_most_all_rows,
    draw_edges,
    lay_out_chunks,
    weight_of_negatives,
)
from twhin_core.model.scorer import relations_share_candidates
from twhin_core.model.sorting import sort_by_index, unique
from twhin_core.schema import OTHER, SIDES, Schema, Side


class BaseMaker:
    """What batches depend on beside their edges, wherever they are made."""

    def __init__(
        self,
        schema: Schema,
        model: Model,
        data: TrainData,
        frequencies: Frequencies | None = None,
        device: torch.device | None = None,
        explicit: NegativeLists | None = None,
    ) -> None:
        """
        Args:
            frequencies: of the training edges, as `NegativeSampler` and `LogShares` need them.
            explicit: the explicit negatives of the edges' queries; None without any.
        """
        self._data = data = at_most_all_rows(schema, data)
        self._sampler = NegativeSampler(schema, data, frequencies, device)
        self._tables = list(schema.tables)
        self._size = torch.tensor(list(schema.tables.values()), device=device)
        weights = weight_of_negatives(schema, model, data)
        self._weight_of_negatives = None if weights is None else torch.tensor(weights, device=device)
        self._table: dict[Side, Tensor] = {
            side: torch.from_numpy(schema.table_numbers[side]).to(device) for side in SIDES
        }
        self._log_shares = None
        if model.prior is not None:
            assert frequencies is not None
            self._log_shares = LogShares(schema, frequencies, self._sampler.counts, device)
        self._explicit = None if explicit is None else ExplicitSampler(schema, explicit, device)
        self._has_prior = {side: model.has_prior(side) for side in SIDES}
        self._by_table = {
            side: not data.in_batch_negatives and relations_share_candidates(model, side) for side in SIDES
        }

    def _log_weight(self, table: Tensor, candidates: int) -> Tensor | None:
        """`table`: int64 [C], of the chunks' answers."""
        return None if self._weight_of_negatives is None else (self._weight_of_negatives[table] / candidates).log()

    def _priors(
        self, side: Side, rel: Tensor, chunks: ChunkLayout, node: dict[Side, Tensor], candidates: Tensor
    ) -> dict[str, Any]:
        """The fields of `Queries` for the prior, if the side has one; `rel`: int64 [C], `candidates`: int64 [C, K]."""
        if self._log_shares is None or not self._has_prior[side]:
            return {}
        of = partial(self._log_shares.of, side, rel)
        found = {"log_share": of(candidates), "answer_log_share": of(chunks.lay_out(node[side]))}
        if self._data.self_negatives:
            found["self_log_share"] = of(chunks.lay_out(node[OTHER[side]]))
        return found

    def _choose(
        self, chunks: ChunkLayout, rel: Tensor, node: dict[Side, Tensor], generator: torch.Generator
    ) -> Chosen | None:
        """The explicit negatives of the queries for the rhs; there are none for the lhs."""
        if self._explicit is None:
            return None
        rels, lhs, answer = map(chunks.lay_out, (rel, node["lhs"], node["rhs"]))
        return self._explicit.choose(rels, lhs, answer, generator)

    def _with_explicit(self, queries: Queries, chosen: Chosen, gather: int) -> Queries:
        """The queries with explicit negatives, which are the rows of a gather."""
        log_share = None
        if self._log_shares is not None and self._has_prior["rhs"]:
            of_slots = self._log_shares.of("rhs", queries.rel.flatten(), chosen.node.flatten(0, 1))
            log_share = of_slots.view(chosen.node.shape)
        return replace(queries, explicit=Explicit(gather, chosen.is_there, chosen.share, log_share))

    def _is_no_negative(self, chunks: ChunkLayout, rel: Tensor, node: dict[Side, Tensor]) -> Tensor:
        """Where a query's own node does not count as its negative: bool [C, L]."""
        other_table = self._table["lhs"][rel] != self._table["rhs"][rel]
        return chunks.lay_out(other_table | (node["lhs"] == node["rhs"]))


class BatchMaker(BaseMaker):
    """Makes batches from a schema's edges."""

    def __init__(
        self,
        schema: Schema,
        model: Model,
        data: TrainData,
        frequencies: Frequencies | None = None,
        explicit: NegativeLists | None = None,
    ) -> None:
        super().__init__(schema, model, data, frequencies, explicit=explicit)
        self._weight = torch.tensor([relation.weight for relation in schema.relations])

    def make(self, edges: Edges, step_edges: int, generator: torch.Generator) -> Batch:
        """The batch of `edges`, at least one, with negatives drawn by `generator`."""
        rel = torch.from_numpy(edges.rel)
        weight = torch.from_numpy(edges.weight) * self._weight[rel]
        node: dict[Side, Tensor] = {"lhs": torch.from_numpy(edges.lhs), "rhs": torch.from_numpy(edges.rhs)}
        negatives = {side: self._negatives(side, rel, node[side], generator) for side in SIDES}
        requested = [(self._table[side][rel], node[side]) for side in SIDES]
        for side in SIDES:
            uniform = negatives[side].uniform
            table = self._chunk_table(side, negatives[side].chunks)
            requested.append((table.repeat_interleave(uniform.shape[1]), uniform.flatten()))
        chosen = self._choose(negatives["rhs"].chunks, rel, node, generator)
        if chosen is not None:
            table = self._chunk_table("rhs", negatives["rhs"].chunks)
            requested.append((table.repeat_interleave(chosen.node[0].numel()), chosen.node.flatten()))
        lookups, index = self._lookups(requested)
        gathers = _Gathers(dict(zip(SIDES, index[:2], strict=True)))
        queries = {}
        for side, uniform in zip(SIDES, index[2:4], strict=True):
            chunks = negatives[side].chunks
            rels = chunks.lay_out(rel)
            of_chunks = side, rels[:, 0], self._chunk_table(side, chunks)
            masked = negatives[side].masked(node[side], 1 + self._data.self_negatives)
            if self._data.self_negatives:
                masked = torch.cat([masked, self._self_masked(negatives[side], rel, node)])
            queries[side] = Queries(
                node=gathers.of_slots(chunks, OTHER[side]),
                answer=gathers.of_slots(chunks, side),
                candidate=gathers.of_candidates(negatives[side], side, uniform),
                rel=rels,
                weight=chunks.lay_out(weight) * chunks.filled,
                masked=masked,
                correction=self._sampler.correction(*of_chunks, negatives[side].node),
                answer_correction=self._sampler.correction(*of_chunks, chunks.lay_out(node[side])),
                log_weight=self._log_weight(of_chunks[2], negatives[side].node.shape[1]),
                has_self=self._data.self_negatives,
                **self._priors(side, rels[:, 0], chunks, node, negatives[side].node),
            )
        if chosen is not None:
            queries["rhs"] = self._with_explicit(queries["rhs"], chosen, gathers.add(index[4]))
        order, start = sort_by_index(gathers.all, len(lookups.values()))
        return Batch(lookups, gathers.all, order, start, queries, step_edges)

    def _negatives(self, side: Side, rel: Tensor, node: Tensor, generator: torch.Generator) -> Negatives:
        group = self._table[side][rel] if self._by_table[side] else rel
        chunks = lay_out_chunks(group, self._data.positives_per_chunk)
        sampled = draw_edges(chunks, self._data.in_batch_negatives, generator)
        uniform = self._sampler.draw(self._chunk_table(side, chunks), generator)
        return Negatives(chunks, torch.cat([node[sampled], uniform], 1), sampled)

    def _self_masked(self, negatives: Negatives, rel: Tensor, node: dict[Side, Tensor]) -> Tensor:
        """Where a query's own node is no negative: positions in the flattened scores [C, L, 2 + K]."""
        slot = self._is_no_negative(negatives.chunks, rel, node).flatten().nonzero().squeeze(1)
        return slot * (2 + negatives.node.shape[1]) + 1

    def _chunk_table(self, side: Side, chunks: ChunkLayout) -> Tensor:
        return chunks.group if self._by_table[side] else self._table[side][chunks.group]

    def _lookups(self, requested: list[tuple[Tensor, Tensor]]) -> tuple[KeyedJaggedTensor, tuple[Tensor, ...]]:
        """Each requested row once, sorted by table, and for each request the indices of its rows there."""
        first = self._size.cumsum(0) - self._size  # numbers the rows of all tables consecutively
        found, index = unique(torch.cat([first[table] + node for table, node in requested]), int(self._size.sum()))
        stops = torch.searchsorted(found, first + self._size)
        counts = stops.diff(prepend=stops.new_zeros(1))
        nodes = found - first.repeat_interleave(counts)
        lookups = KeyedJaggedTensor(keys=self._tables, values=nodes, lengths=counts.int(), stride=1)
        return lookups, index.split([len(node) for _, node in requested])


class _Gathers:
    """Collects the gathers of a batch; equal ones are stored once."""

    def __init__(self, edges: dict[Side, Tensor]) -> None:
        """`edges`: int64 [B] for each side, the looked-up row of each edge's node."""
        self.all: list[Tensor] = []
        self._edges = edges
        self._identity: dict[Side, int] = {}

    def of_slots(self, chunks: ChunkLayout, side: Side) -> int:
        """The gather of that side of each slot's edge."""
        if not chunks.is_identity:
            return self.add(chunks.lay_out(self._edges[side]).flatten())
        if side not in self._identity:
            self._identity[side] = self.add(self._edges[side])
        return self._identity[side]

    def of_candidates(self, negatives: Negatives, side: Side, uniform: Tensor) -> int:
        """The gather of the candidates: nodes of the sampled edges, then the `uniform` ones [C · M]."""
        sampled = self._edges[side][negatives.sampled_edge]
        return self.add(torch.cat([sampled, uniform.view(negatives.uniform.shape)], 1).flatten())

    def add(self, index: Tensor) -> int:
        """The gather of these looked-up rows."""
        self.all.append(index)
        return len(self.all) - 1
