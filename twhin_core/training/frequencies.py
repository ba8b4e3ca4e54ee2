"""How often nodes occur in the training edges, counted by all ranks together."""

from __future__ import annotations

import torch
import torch.distributed as dist

from twhin_core.data.files import EdgeFiles
from twhin_core.data.frequencies import Array, Frequencies, count_ends, merge
from twhin_core.distributed.ranks import Ranks
from twhin_core.schema import Schema


def count_together(files: EdgeFiles, schema: Schema, ranks: Ranks) -> Frequencies:
    """Counts over all edges of `files`, equal on every rank. A collective: each rank counts a share of the edges."""
    mine = count_ends(files.chunks(ranks.rank, ranks.world_size), schema)
    parts = zip(_gathered(mine.key, ranks), _gathered(mine.count, ranks), strict=True)
    return merge([Frequencies(key, count, mine.rows) for key, count in parts])


def _gathered(values: Array, ranks: Ranks) -> list[Array]:
    """The values of every rank, gathered on the CPU."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks.world_size)]
    dist.all_gather(lengths, torch.tensor([len(values)]))
    longest = int(max(lengths))
    padded = torch.nn.functional.pad(torch.from_numpy(values), (0, longest - len(values)))
    gathered = [torch.empty(longest, dtype=torch.int64) for _ in range(ranks.world_size)]
    dist.all_gather(gathered, padded)
    return [part[: int(length)].numpy() for part, length in zip(gathered, lengths, strict=True)]
