"""Initial weights that do not depend on how many ranks share a table."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

ROWS_PER_BLOCK = 16_384


def initialise_table(name: str, weight: Tensor | ShardedTensor, std: float, seed: int) -> None:
    """Fills this rank's part of a table, in place, with Normal(0, std²).

    The rows come in blocks, each from a generator of its own, so that a rank makes the blocks that it holds a part of
    and no other.
    """
    for local, (first_row, first_column), columns in _local_parts(weight):
        stop_row = first_row + local.shape[0]
        for block in range(first_row // ROWS_PER_BLOCK, -(-stop_row // ROWS_PER_BLOCK)):
            entropy = np.random.SeedSequence([seed, zlib.crc32(name.encode()), block]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(entropy[0]))
            rows = torch.empty(ROWS_PER_BLOCK, columns).normal_(0.0, std, generator=generator)
            start, stop = max(first_row, block * ROWS_PER_BLOCK), min(stop_row, (block + 1) * ROWS_PER_BLOCK)
            local[start - first_row : stop - first_row] = rows[
                start - block * ROWS_PER_BLOCK : stop - block * ROWS_PER_BLOCK,
                first_column : first_column + local.shape[1],
            ]


def _local_parts(weight: Tensor | ShardedTensor) -> Iterator[tuple[Tensor, tuple[int, int], int]]:
    """This rank's parts of the table: values, offsets of the first row and column, and the whole table's columns."""
    if isinstance(weight, ShardedTensor):
        for shard in weight.local_shards():
            first_row, first_column = shard.metadata.shard_offsets
            yield shard.tensor, (first_row, first_column), weight.size(1)
    else:
        yield weight, (0, 0), weight.shape[1]
