"""Negatives: nodes put in the place of an edge's lhs or rhs, shared by chunks of edges.

    chunk 0 │ edge 0  edge 3  edge 7 │ × K candidates of chunk 0  → scores [L, K]
    chunk 1 │ edge 1  edge 2  (pad)  │ × K candidates of chunk 1

Edges of a chunk agree in what they may be corrupted with: the table of the side, or, where in-batch negatives are
drawn, the relation. So the scores of a batch are one batched matrix product [C, L, dim] × [C, dim, K].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.model.sorting import stable_argsort
from twhin_core.schema import Schema


@dataclass(frozen=True)
class ChunkLayout:
    """Edges of a batch laid out in C chunks of L slots, one group to a chunk."""

    edge: Tensor
    """int64 [C, L]: the edge in each slot; a padding slot holds edge 0."""
    filled: Tensor
    """bool [C, L]: false in a padding slot."""
    group: Tensor
    """int64 [C]: the group of each chunk."""
    order: Tensor
    """int64 [B]: the edges, group by group."""
    first: Tensor
    """int64 [C]: where in `order` each chunk's group begins."""
    count: Tensor
    """int64 [C]: how many edges the group has, in all of its chunks together."""
    is_identity: bool
    """Whether the slots, in order, are the edges."""

    def lay_out(self, values: Tensor) -> Tensor:
        """The value [C, L] of each slot's edge: values [B]."""
        return values.view(self.edge.shape) if self.is_identity else values[self.edge]


def lay_out_chunks(group: Tensor, size: int) -> ChunkLayout:
    """Lays out edges of the groups `group` (int64 [B], B > 0) in chunks of at most `size`, evenly filled."""
    order, groups, counts = _sorted_groups(group)
    largest = int(counts.max())
    length = -(-largest // -(-largest // size))
    chunks = -(-counts // length)
    first_slot = (chunks.cumsum(0) - chunks) * length
    first_edge = counts.cumsum(0) - counts
    slot = torch.arange(len(group)) + (first_slot - first_edge).repeat_interleave(counts)
    slots = int(chunks.sum()) * length
    edge = torch.zeros(slots, dtype=torch.int64)
    edge[slot] = order
    filled = torch.zeros(slots, dtype=torch.bool)
    filled[slot] = True
    return ChunkLayout(
        edge=edge.view(-1, length),
        filled=filled.view(-1, length),
        group=groups.repeat_interleave(chunks),
        order=order,
        first=first_edge.repeat_interleave(chunks),
        count=counts.repeat_interleave(chunks),
        is_identity=len(groups) == 1 and slots == len(group),
    )


def _sorted_groups(group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The edges in the order of their groups, the groups that occur, and how many edges each has."""
    if bool((group == group[0]).all()):  # as in every graph of one relation; sorting would take longer than all else
        return torch.arange(len(group)), group[:1], torch.tensor([len(group)])
    order = stable_argsort(group, int(group.max()) + 1)
    groups, counts = group[order].unique_consecutive(return_counts=True)
    return order, groups, counts


@dataclass(frozen=True)
class Negatives:
    """K candidates for one side of the edges of each chunk: N in-batch ones, then M uniform ones."""

    chunks: ChunkLayout
    node: Tensor
    """int64 [C, N + M]: the candidates' rows in the table of the side."""
    sampled_edge: Tensor
    """int64 [C, N]: the batch's edge that each in-batch candidate was taken from."""

    @property
    def uniform(self) -> Tensor:
        """int64 [C, M]: the candidates that are nodes of no edge of the batch."""
        return self.node[:, self.sampled_edge.shape[1] :]

    def masked(self, true_node: Tensor, first_column: int = 1) -> Tensor:
        """Where a candidate is the edge's own node [B], as positions in flattened scores [C, L, first_column + K].

        The first column of the scores is the edge's own; the candidates' begin at `first_column`.
        """
        chunks, count = self.node.shape
        wanted = self.chunks.lay_out(true_node)
        chunk = torch.arange(chunks)[:, None]
        slot = _might_occur(wanted * chunks + chunk, self.node * chunks + chunk)
        # Looked up among the sorted candidates: comparing all pairs would take as long as scoring them.
        rows = int(max(self.node.max(), true_node.max())) + 1
        candidates, order = (self.node + chunk * rows).flatten().sort()
        key = wanted.flatten()[slot] + slot // wanted.shape[1] * rows
        first = torch.searchsorted(candidates, key)
        repetitions = torch.searchsorted(candidates, key, right=True) - first
        slot = slot.repeat_interleave(repetitions)
        within = torch.arange(len(slot)) - (repetitions.cumsum(0) - repetitions).repeat_interleave(repetitions)
        candidate = order[first.repeat_interleave(repetitions) + within] % count
        return slot * (first_column + count) + first_column + candidate


def _might_occur(values: Tensor, among: Tensor) -> Tensor:
    """Flat positions of all values that are also `among` others, and of a few that are not."""
    # Two gathers from a small table tell most values apart, where a search would take as many as a sort has levels.
    bits = 2 ** (32 * among.numel()).bit_length() - 1
    table = torch.zeros(bits + 1, dtype=torch.bool)
    table[among & bits] = True
    return table[values & bits].flatten().nonzero().squeeze(1)


def draw(size: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Uniform integers in [0, size[c]) for each chunk: int64 [C, count]."""
    # float64, because float32 has too few values to reach every row of a table beyond 2^24 rows.
    share = torch.rand(len(size), count, dtype=torch.float64, generator=generator, device=size.device)
    return (share * size[:, None]).long()


def draw_edges(chunks: ChunkLayout, count: int, generator: torch.Generator) -> Tensor:
    """For each chunk, edges drawn with replacement from the batch's edges of its group: int64 [C, count]."""
    return chunks.order[chunks.first[:, None] + draw(chunks.count, count, generator)]


def check_rows(schema: Schema, config: Config) -> None:
    """Raises UserError where a table has fewer rows than negatives are to be drawn from it."""
    for section, data in (("train_data", config.train_data), ("validation_data", config.validation_data)):
        for table in {table: None for relation in schema.relations for table in (relation.lhs, relation.rhs)}:
            rows = schema.tables[table]
            if data is not None and data.global_negatives > rows:
                raise UserError(
                    f"{section}.global_negatives: {data.global_negatives} are more than the {rows} rows of {table}"
                )
