"""Opens batches: two put together into one, and one taken apart into plain edges."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from tests.training.dense import PlainEdge
from twhin_core.data.edges import Edges
from twhin_core.model.batch import Batch, Queries
from twhin_core.model.scorer import SIDES

Requests = list[list[tuple[int, int]]]
"""The (table, node) pairs that a batch looks up: of its lhs, its rhs, and the uniform candidates of each side."""


def merge(batches: list[Batch]) -> Batch:
    """The batches of several ranks as one: the same edges, chunks and negatives."""
    tables = batches[0].lookups.keys()
    parts = [[*chain.from_iterable(same)] for same in zip(*map(requests_of, batches), strict=True)]
    requests = [*chain.from_iterable(parts)]
    looked_up = sorted(set(requests))  # each row once, a table at a time
    position = torch.tensor([looked_up.index(request) for request in requests])
    lengths = [sum(table == number for table, _ in looked_up) for number in range(len(tables))]
    nodes = torch.tensor([node for _, node in looked_up])
    return replace(
        batches[0],
        queries={side: _merge_queries(side, batches) for side in SIDES},
        lookups=KeyedJaggedTensor(
            keys=tables, values=nodes, lengths=torch.tensor(lengths, dtype=torch.int32), stride=1
        ),
        position=position,
        requested=[len(part) for part in parts],
    )


def plain_edges(batch: Batch, edges: Edges) -> list[PlainEdge]:
    """The batch as plain edges with lists of negatives."""
    negatives: dict[str, list[list[int]]] = {}
    for side, uniform in zip(SIDES, requests_of(batch)[2:], strict=True):
        slots = batch.queries[side]
        chunks, length = slots.rel.shape
        in_batch = getattr(edges, side)[slots.sampled_edge.numpy()].reshape(chunks, -1)
        candidates = np.hstack([in_batch, np.array([node for _, node in uniform], np.int64).reshape(chunks, -1)])
        negatives[side] = [[] for _ in range(len(edges))]
        for slot, (edge, weight) in enumerate(zip(_edges(slots).tolist(), slots.weight.flatten(), strict=True)):
            if weight > 0:
                assert not negatives[side][edge], "an edge has one slot"
                negatives[side][edge] = candidates[slot // length].tolist()
    return [
        PlainEdge(int(lhs), int(rel), int(rhs), float(weight), negatives["lhs"][edge], negatives["rhs"][edge])
        for edge, (lhs, rel, rhs, weight) in enumerate(zip(edges.lhs, edges.rel, edges.rhs, edges.weight, strict=True))
    ]


def requests_of(batch: Batch) -> Requests:
    lengths = batch.lookups.lengths().tolist()
    tables = [table for table, length in enumerate(lengths) for _ in range(length)]
    looked_up = list(zip(tables, batch.lookups.values().tolist(), strict=True))
    requests = [looked_up[row] for row in batch.position.tolist()]
    ends = np.cumsum(batch.requested)
    return [requests[end - length : end] for end, length in zip(ends, batch.requested, strict=True)]


def _edges(slots: Queries) -> Tensor:
    return torch.arange(slots.rel.numel()) if slots.edge is None else slots.edge


def _merge_queries(side: str, batches: list[Batch]) -> Queries:
    parts = [batch.queries[side] for batch in batches]  # type: ignore[index]  # one of SIDES
    longest = max(part.rel.shape[1] for part in parts)
    edge, rel, weight, sampled, masked, correction, own = [], [], [], [], [], [], []
    first_edge = first_slot = 0
    for batch, part in zip(batches, parts, strict=True):
        chunks, length = part.rel.shape
        padding = longest - length
        edge.append(torch.nn.functional.pad(_edges(part).view(chunks, length) + first_edge, (0, padding)))
        rel.append(torch.cat([part.rel, part.rel[:, :1].expand(-1, padding)], 1))
        weight.append(torch.nn.functional.pad(part.weight, (0, padding)))
        sampled.append(part.sampled_edge + first_edge)
        count = (len(part.sampled_edge) + batch.requested[2 + SIDES.index(side)]) // chunks
        slot, candidate = part.masked // count, part.masked % count
        slot = first_slot + slot // length * longest + slot % length
        masked.append(slot * count + candidate)
        if part.correction is not None and part.own_correction is not None:
            correction.append(part.correction)
            own.append(torch.nn.functional.pad(part.own_correction, (0, padding)))
        first_edge += batch.requested[0]
        first_slot += chunks * longest
    return Queries(
        torch.cat(edge).flatten(), torch.cat(rel), torch.cat(weight), torch.cat(sampled), torch.cat(masked),
        correction=torch.cat(correction) if correction else None,
        own_correction=torch.cat(own) if own else None,
    )  # fmt: skip
