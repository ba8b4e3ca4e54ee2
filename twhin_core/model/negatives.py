"""Negatives: nodes put in the place of an edge's lhs or rhs, shared by chunks of edges.

    chunk 0 │ edge 0  edge 3  edge 7 │ × K candidates of chunk 0  → scores [L, K]
    chunk 1 │ edge 1  edge 2  (pad)  │ × K candidates of chunk 1

Edges of a chunk agree in what they may be corrupted with: the relation for in-batch negatives, the table for uniform
ones. So the scores of a batch are one batched matrix product [C, L, d] × [C, d, K].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunks:
    """Edges of a batch laid out in C chunks of L slots, a group to a chunk."""

    edge: Tensor
    """int64 [C, L]: the edge in each slot; a padding slot holds edge 0 and is never read back."""
    slot: Tensor
    """int64 [B]: where each edge is in the flattened slots."""
    group: Tensor
    """int64 [C]: the group of each chunk."""


def make_chunks(group: Tensor, size: int) -> Chunks:
    """Lays out edges of the groups `group` (int64 [B], B > 0) in chunks of at most `size`, evenly filled."""
    order = group.argsort(stable=True)
    groups, counts = group[order].unique_consecutive(return_counts=True)
    largest = int(counts.max())
    length = -(-largest // -(-largest // size))
    chunks = -(-counts // length)
    first_slot = (chunks.cumsum(0) - chunks) * length
    first_edge = counts.cumsum(0) - counts
    slots = torch.arange(len(group)) + (first_slot - first_edge).repeat_interleave(counts)
    edge = torch.zeros(int(chunks.sum()) * length, dtype=torch.int64)
    edge[slots] = order
    slot = torch.empty_like(order)
    slot[order] = slots
    return Chunks(edge.view(-1, length), slot, groups.repeat_interleave(chunks))


@dataclass(frozen=True)
class Negatives:
    """K candidates for one side of the edges of each chunk."""

    chunks: Chunks
    node: Tensor
    """int64 [C, K]: the candidates' rows in the table of the side."""
    sampled_edge: Tensor | None
    """int64 [C, K]: the batch's edge that each in-batch candidate was taken from; None for uniform ones."""

    def masked(self, true_node: Tensor) -> Tensor:
        """Where a candidate is the edge's own node, as positions in the flattened [C, L, K]; `true_node` is [B]."""
        same = true_node[self.chunks.edge][:, :, None] == self.node[:, None, :]
        return same.flatten().nonzero().squeeze(1)


def draw(size: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Uniform integers in [0, size[c]) for each chunk: int64 [C, count]."""
    # float64, because float32 has too few values to reach every row of a table beyond 2^24 rows.
    share = torch.rand(len(size), count, dtype=torch.float64, generator=generator)
    return (share * size[:, None]).long()


def in_batch_negatives(rel: Tensor, node: Tensor, count: int, chunk_size: int, generator: torch.Generator) -> Negatives:
    """`count` candidates a chunk, drawn with replacement from the batch's edges of the same relation.

    Args:
        rel: int64 [B]: the relation of each edge.
        node: int64 [B]: each edge's node on the side to be corrupted.
    """
    chunks = make_chunks(rel, chunk_size)
    order = rel.argsort(stable=True)
    relations, counts = rel[order].unique_consecutive(return_counts=True)
    run = torch.searchsorted(relations, chunks.group)
    first = (counts.cumsum(0) - counts)[run]
    sampled = order[first[:, None] + draw(counts[run], count, generator)]
    return Negatives(chunks, node[sampled], sampled)


def uniform_negatives(
    group: Tensor, table_size: Tensor, count: int, chunk_size: int, generator: torch.Generator
) -> Negatives:
    """`count` candidates a chunk, drawn uniformly from the table of the side to be corrupted.

    Args:
        group: int64 [B]: what the edges of a chunk must agree in, their table on that side or their relation.
        table_size: int64 [groups]: rows of each group's table.
    """
    chunks = make_chunks(group, chunk_size)
    return Negatives(chunks, draw(table_size[chunks.group], count, generator), None)
