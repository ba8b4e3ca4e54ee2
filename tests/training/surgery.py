"""Opens batches: two put together into one, and one taken apart into plain queries."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec import KeyedJaggedTensor

from tests.training.dense import PlainQuery
from twhin_core.data.edges import Edges
from twhin_core.model.batch import Batch, Queries
from twhin_core.schema import SIDES

Row = tuple[int, int]
"""A table's number and a node of it."""


def merge(batches: list[Batch]) -> Batch:
    """The batches of several ranks as one: the same edges, chunks and negatives."""
    tables = batches[0].lookups.keys()
    looked_up = sorted({row for batch in batches for row in rows_of(batch)})  # each row once, a table at a time
    lengths = [sum(table == number for table, _ in looked_up) for number in range(len(tables))]
    lookups = KeyedJaggedTensor(
        keys=tables,
        values=torch.tensor([node for _, node in looked_up]),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        stride=1,
    )
    places = [torch.tensor([looked_up.index(row) for row in rows_of(batch)]) for batch in batches]
    parts: list[Tensor] = []
    queries = {
        side: _merge_queries([batch.queries[side] for batch in batches], batches, places, parts) for side in SIDES
    }
    everything = torch.cat(parts)
    start = torch.searchsorted(everything.sort().values, torch.arange(len(looked_up) + 1))
    return replace(
        batches[0], lookups=lookups, parts=parts, order=everything.argsort(stable=True), start=start, queries=queries
    )


def plain_queries(batch: Batch, edges: Edges) -> list[PlainQuery]:
    """The batch's queries, which are those of `edges`: each edge has one slot a side."""
    looked_up, queries = rows_of(batch), []
    expected = sorted(
        zip(*(column.tolist() for column in (edges.lhs, edges.rel, edges.rhs, edges.weight)), strict=True)
    )
    for side in SIDES:
        slots = batch.queries[side]
        chunks, length = slots.rel.shape
        given, asked, candidates = (
            [looked_up[place][1] for place in batch.parts[part].tolist()]
            for part in (slots.given, slots.asked, slots.candidate)
        )
        count, mine = len(candidates) // chunks, []
        for slot, (rel, weight) in enumerate(zip(slots.rel.flatten().tolist(), slots.weight.flatten(), strict=True)):
            if weight > 0:
                lhs, rhs = (asked[slot], given[slot]) if side == "lhs" else (given[slot], asked[slot])
                chunk = slot // length
                rivals = candidates[chunk * count : (chunk + 1) * count]
                mine.append(PlainQuery(side, lhs, rel, rhs, float(weight), rivals, slots.has_self))
        assert sorted((query.lhs, query.rel, query.rhs, query.weight) for query in mine) == expected
        queries += mine
    return queries


def rows_of(batch: Batch) -> list[Row]:
    """The rows that a batch looks up, in the order of their places."""
    lengths = batch.lookups.length_per_key()
    tables = chain.from_iterable([table] * length for table, length in enumerate(lengths))
    return list(zip(tables, batch.lookups.values().tolist(), strict=True))


def _merge_queries(queries: list[Queries], batches: list[Batch], places: list[Tensor], parts: list[Tensor]) -> Queries:
    """Those of one side; adds their parts, by their new `places`, to `parts`."""
    longest = max(one.rel.shape[1] for one in queries)
    names = ("rel", "weight", "masked", "correction", "own_correction", "handicap")
    merged: dict[str, list[Tensor]] = {name: [] for name in names}
    ends: dict[str, list[Tensor]] = {"given": [], "asked": [], "candidate": []}
    first_slot = 0
    for one, batch, place in zip(queries, batches, places, strict=True):
        chunks, length = one.rel.shape
        padding = longest - length
        candidates = place[batch.parts[one.candidate]].view(chunks, -1)
        for name in ("given", "asked"):
            rows = place[batch.parts[getattr(one, name)]].view(chunks, length)
            ends[name].append(torch.cat([rows, rows[:, :1].expand(-1, padding)], 1).flatten())
        ends["candidate"].append(candidates.flatten())
        columns = 1 + one.has_self + candidates.shape[1]
        slot, column = one.masked // columns, one.masked % columns
        merged["rel"].append(torch.cat([one.rel, one.rel[:, :1].expand(-1, padding)], 1))
        merged["weight"].append(F.pad(one.weight, (0, padding)))
        merged["masked"].append((first_slot + slot // length * longest + slot % length) * columns + column)
        if one.correction is not None and one.own_correction is not None:
            merged["correction"].append(one.correction)
            merged["own_correction"].append(F.pad(one.own_correction, (0, padding)))
        if one.handicap is not None:
            merged["handicap"].append(one.handicap)
        first_slot += chunks * longest
    numbers = {}
    for name, rows in ends.items():
        numbers[name] = len(parts)
        parts.append(torch.cat(rows))
    tensors = {name: torch.cat(values) if values else None for name, values in merged.items()}
    return Queries(**numbers, **tensors, has_self=queries[0].has_self)
