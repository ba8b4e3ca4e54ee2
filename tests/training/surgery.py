"""Takes batches apart: merges several into one, and turns one into plain queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec import KeyedJaggedTensor

from tests.training.dense import PlainQuery
from twhin_core.data.edges import Edges
from twhin_core.model.batch import Batch, Explicit, Queries
from twhin_core.schema import SIDES

Row = tuple[int, int]
"""A table's number and a node of it."""


def merge(batches: list[Batch]) -> Batch:
    """The batches of several ranks as one: the same edges, chunks and negatives."""
    tables = batches[0].lookups.keys()
    looked_up = sorted({row for batch in batches for row in rows_of(batch)})  # each row once, table by table
    lengths = [sum(table == number for table, _ in looked_up) for number in range(len(tables))]
    lookups = KeyedJaggedTensor(
        keys=tables,
        values=torch.tensor([node for _, node in looked_up]),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        stride=1,
    )
    indices = [torch.tensor([looked_up.index(row) for row in rows_of(batch)]) for batch in batches]
    gathers: list[Tensor] = []
    queries = {
        side: _merge_queries([batch.queries[side] for batch in batches], batches, indices, gathers) for side in SIDES
    }
    everything = torch.cat(gathers)
    start = torch.searchsorted(everything.sort().values, torch.arange(len(looked_up) + 1))
    return replace(
        batches[0],
        lookups=lookups,
        gathers=gathers,
        order=everything.argsort(stable=True),
        start=start,
        queries=queries,
    )


def plain_queries(batch: Batch, edges: Edges, sizes: Sequence[int] = ()) -> list[PlainQuery]:
    """The batch's queries, which are those of `edges`: each edge has one slot per side.

    `sizes`: of the tables, for a batch of joined tables.
    """
    looked_up = (
        rows_of(batch)
        if batch.lookups is not None
        else [(table, node) for table, size in enumerate(sizes) for node in range(size)]
    )
    queries = []
    expected = sorted(
        zip(*(column.tolist() for column in (edges.lhs, edges.rel, edges.rhs, edges.weight)), strict=True)
    )
    for side in SIDES:
        slots = batch.queries[side]
        chunks, length = slots.rel.shape
        node, answer, candidates = (
            [looked_up[index][1] for index in batch.gathers[gather].tolist()]
            for gather in (slots.node, slots.answer, slots.candidate)
        )
        count, mine, explicit = len(candidates) // chunks, [], _explicit(batch, slots, looked_up)
        for slot, (rel, weight) in enumerate(zip(slots.rel.flatten().tolist(), slots.weight.flatten(), strict=True)):
            if weight > 0:
                lhs, rhs = (answer[slot], node[slot]) if side == "lhs" else (node[slot], answer[slot])
                chunk = slot // length
                negatives = candidates[chunk * count : (chunk + 1) * count]
                mine.append(PlainQuery(side, lhs, rel, rhs, float(weight), negatives, slots.has_self, explicit[slot]))
        assert sorted((query.lhs, query.rel, query.rhs, query.weight) for query in mine) == expected
        queries += mine
    return queries


def _explicit(batch: Batch, slots: Queries, looked_up: list[Row]) -> list[list[int]]:
    """The explicit negatives of each slot."""
    if slots.explicit is None:
        return [[] for _ in range(slots.rel.numel())]
    nodes = [looked_up[index][1] for index in batch.gathers[slots.explicit.gather].tolist()]
    columns = slots.explicit.is_there.shape[-1]
    return [
        [node for node, there in zip(nodes[columns * slot :], is_there, strict=False) if there]
        for slot, is_there in enumerate(slots.explicit.is_there.flatten(0, 1).tolist())
    ]


def rows_of(batch: Batch) -> list[Row]:
    """The rows that a batch looks up, in order."""
    lengths = batch.lookups.length_per_key()
    tables = chain.from_iterable([table] * length for table, length in enumerate(lengths))
    return list(zip(tables, batch.lookups.values().tolist(), strict=True))


PRIORS = ("log_share", "answer_log_share", "self_log_share")


def _merge_queries(
    queries: list[Queries], batches: list[Batch], indices: list[Tensor], gathers: list[Tensor]
) -> Queries:
    """The merged queries of one side; adds their gathers, of the merged rows at `indices`, to `gathers`."""
    longest = max(one.rel.shape[1] for one in queries)
    names = ("rel", "weight", "masked", "correction", "answer_correction", "log_weight", *PRIORS)
    merged: dict[str, list[Tensor]] = {name: [] for name in names}
    gathered: dict[str, list[Tensor]] = {"node": [], "answer": [], "candidate": []}
    first_slot = 0
    for one, batch, index in zip(queries, batches, indices, strict=True):
        chunks, length = one.rel.shape
        padding = longest - length
        candidates = index[batch.gathers[one.candidate]].view(chunks, -1)
        for name in ("node", "answer"):
            rows = index[batch.gathers[getattr(one, name)]].view(chunks, length)
            gathered[name].append(torch.cat([rows, rows[:, :1].expand(-1, padding)], 1).flatten())
        gathered["candidate"].append(candidates.flatten())
        columns = 1 + one.has_self + candidates.shape[1]
        slot, column = one.masked // columns, one.masked % columns
        merged["rel"].append(torch.cat([one.rel, one.rel[:, :1].expand(-1, padding)], 1))
        merged["weight"].append(F.pad(one.weight, (0, padding)))
        merged["masked"].append((first_slot + slot // length * longest + slot % length) * columns + column)
        if one.correction is not None and one.answer_correction is not None:
            merged["correction"].append(one.correction)
            merged["answer_correction"].append(F.pad(one.answer_correction, (0, padding)))
        for name in PRIORS:
            if (log_share := getattr(one, name)) is not None:
                merged[name].append(log_share if name == "log_share" else F.pad(log_share, (0, padding)))
        if one.log_weight is not None:
            merged["log_weight"].append(one.log_weight)
        first_slot += chunks * longest
    numbers = {}
    for name, rows in gathered.items():
        numbers[name] = len(gathers)
        gathers.append(torch.cat(rows))
    tensors = {name: torch.cat(values) if values else None for name, values in merged.items()}
    explicit = _merge_explicit(queries, batches, indices, gathers)
    return Queries(**numbers, **tensors, has_self=queries[0].has_self, explicit=explicit)


def _merge_explicit(
    queries: list[Queries], batches: list[Batch], indices: list[Tensor], gathers: list[Tensor]
) -> Explicit | None:
    """As `_merge_queries`, of the explicit negatives, if there are any."""
    longest = max(one.rel.shape[1] for one in queries)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("gather", "is_there", "share", "log_share")}
    for one, batch, index in zip(queries, batches, indices, strict=True):
        if one.explicit is None:
            return None
        padding = longest - one.rel.shape[1]
        rows = index[batch.gathers[one.explicit.gather]].view(one.explicit.is_there.shape)
        parts["gather"].append(torch.cat([rows, rows[:, :1].expand(-1, padding, -1)], 1).flatten())
        parts["is_there"].append(F.pad(one.explicit.is_there, (0, 0, 0, padding)))
        parts["share"].append(F.pad(one.explicit.share, (0, padding)))
        if one.explicit.log_share is not None:
            parts["log_share"].append(F.pad(one.explicit.log_share, (0, 0, 0, padding)))
    gathers.append(torch.cat(parts.pop("gather")))
    return Explicit(len(gathers) - 1, **{name: torch.cat(values) for name, values in parts.items() if values})
