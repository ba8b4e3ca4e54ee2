"""Negatives: nodes that replace an edge's lhs or rhs, shared by the edges of a chunk.

    chunk 0 │ edge 0  edge 3  edge 7 │ × K candidates of chunk 0  → scores [L, K]
    chunk 1 │ edge 1  edge 2  (pad)  │ × K candidates of chunk 1

The edges of a chunk share what they may be corrupted with: the side's table or, with in-batch negatives, the relation.
The scores of a batch are therefore one batched matrix product, [C, L, dim] × [C, dim, K].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twhin_core.config import Config, Model, TrainData
from twhin_core.model.sorting import stable_argsort
from twhin_core.progress import log
from twhin_core.schema import Schema


@dataclass(frozen=True)
class ChunkLayout:
    """The edges of a batch, laid out in C chunks of L slots; each chunk holds edges of one group."""

    edge: Tensor
    """int64 [C, L]: the edge in each slot; a padding slot holds edge 0."""
    filled: Tensor
    """bool [C, L]: false in a padding slot."""
    group: Tensor
    """int64 [C]: the group of each chunk."""
    order: Tensor
    """int64 [B]: the edges, group by group."""
    first: Tensor
    """int64 [C]: where each chunk's group begins in `order`."""
    count: Tensor
    """int64 [C]: how many edges the chunk's group has over all its chunks."""
    is_identity: bool
    """Whether slot i holds edge i, for all edges and without padding."""

    def lay_out(self, values: Tensor) -> Tensor:
        """The value of each slot's edge: [B] → [C, L]."""
        return values.view(self.edge.shape) if self.is_identity else values[self.edge]


def lay_out_chunks(group: Tensor, size: int) -> ChunkLayout:
    """Lays out edges in evenly filled chunks of at most `size`. `group`: int64 [B], B > 0, the group of each edge."""
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
    """The edges sorted by group, the groups that occur, and how many edges each has."""
    if bool((group == group[0]).all()):  # as in any graph with one relation; sorting would dominate
        return torch.arange(len(group)), group[:1], torch.tensor([len(group)])
    order = stable_argsort(group, int(group.max()) + 1)
    groups, counts = group[order].unique_consecutive(return_counts=True)
    return order, groups, counts


@dataclass(frozen=True)
class Negatives:
    """K candidates for one side of each chunk's edges: N in-batch ones, then M global ones."""

    chunks: ChunkLayout
    node: Tensor
    """int64 [C, N + M]: the candidates' rows in the table of the side."""
    sampled_edge: Tensor
    """int64 [C, N]: the edge of the batch that each in-batch candidate comes from."""

    @property
    def uniform(self) -> Tensor:
        """int64 [C, M]: the candidates drawn from the table, not from the batch."""
        return self.node[:, self.sampled_edge.shape[1] :]

    def masked(self, true_node: Tensor, first_column: int = 1) -> Tensor:
        """Where a candidate is the edge's true node, as positions in the flattened scores [C, L, first_column + K].

        Args:
            true_node: int64 [B].
            first_column: where the candidates' scores begin, after those of the positive and of its self negative.
        """
        chunks, count = self.node.shape
        wanted = self.chunks.lay_out(true_node)
        chunk = torch.arange(chunks)[:, None]
        slot = _might_occur(wanted * chunks + chunk, self.node * chunks + chunk)
        # A search among the sorted candidates: comparing all pairs would take as long as scoring them.
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
    """Flat positions of all values that are in `among`, and of a few that are not (a Bloom filter of one hash)."""
    # A lookup in a small table rules out most values, far cheaper than a binary search for each.
    bits = 2 ** (32 * among.numel()).bit_length() - 1
    table = torch.zeros(bits + 1, dtype=torch.bool)
    table[among & bits] = True
    return table[values & bits].flatten().nonzero().squeeze(1)


def draw(size: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Uniform integers in [0, size[c]) for each chunk c: int64 [C, count]."""
    # float32 has too few values to reach every row of a table of more than 2^24 rows.
    share = torch.rand(len(size), count, dtype=torch.float64, generator=generator, device=size.device)
    return (share * size[:, None]).long()


def draw_edges(chunks: ChunkLayout, count: int, generator: torch.Generator) -> Tensor:
    """Draws edges of each chunk's group from the batch, with replacement: int64 [C, count]."""
    return chunks.order[chunks.first[:, None] + draw(chunks.count, count, generator)]


def used_rows(schema: Schema) -> dict[str, int]:
    """The rows of each table that a relation has at an end."""
    ends = {end for relation in schema.relations for end in (relation.lhs, relation.rhs)}
    return {table: rows for table, rows in schema.tables.items() if table in ends}


def at_most_all_rows(schema: Schema, data: TrainData) -> TrainData:
    """The settings with at most as many global negatives as the largest table has rows."""
    most = max(schema.most_rows.values())
    return data if data.global_negatives <= most else data.model_copy(update={"global_negatives": most})


def weight_of_negatives(schema: Schema, model: Model, data: TrainData) -> list[int] | None:
    """How many candidates a chunk's negatives together weigh as, by table; None if each weighs 1.

    All rows of the table with full_softmax. Otherwise this clamps `global_negatives` to the rows of a small table: more
    draws than rows repeat rows, and the softmax, which sums over negatives, must not count the repetitions. The other
    losses take their mean.
    """
    rows = list(schema.tables.values())
    if data.full_softmax:
        return rows
    if model.loss != "softmax" or data.global_negatives <= min(used_rows(schema).values()):
        return None
    return [data.in_batch_negatives + min(data.global_negatives, size) for size in rows]


def note_small_tables(schema: Schema, config: Config) -> None:
    """Logs which tables have fewer rows than `global_negatives`."""
    for section, data in (("train_data", config.train_data), ("validation_data", config.validation_data)):
        if data is None:
            continue
        small = [f"{table} {rows:,}" for table, rows in used_rows(schema).items() if rows < data.global_negatives]
        if small:
            shown = ", ".join(small[:10]) + (f" and {len(small) - 10} more" if len(small) > 10 else "")
            log.info(
                "%s.global_negatives: %s is more than the rows of some tables, whose negatives count as many as they "
                "have rows: %s", section, f"{data.global_negatives:,}", shown,
            )  # fmt: skip
