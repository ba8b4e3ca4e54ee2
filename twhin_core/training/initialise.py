"""Initial weights that do not depend on how a table is sharded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from twhin_core import limits

ROWS_PER_BLOCK = 16_384


def initialise_table(name: str, weight: Tensor | ShardedTensor, std: float | None, seed: int) -> None:
    """Fills this rank's part of a table, in place, with Normal(0, std²); with rows of length 1 if `std` is None.

    Rows are drawn in blocks, each with its own generator, so that a rank draws only the blocks that it holds a part of.
    """
    for local, offsets, columns in _local_parts(weight):
        first, stop = offsets[0] // ROWS_PER_BLOCK, -(-(offsets[0] + local.shape[0]) // ROWS_PER_BLOCK)
        fill = partial(_fill, name, local, offsets, columns, std, seed)
        if local.is_cuda:  # one thread draws at a hundredth of the speed of the copy
            with ThreadPoolExecutor(limits.cores()) as pool:
                list(pool.map(fill, range(first, stop)))
        else:
            for block in range(first, stop):
                fill(block)


def normalise_rows(weight: Tensor | ShardedTensor) -> None:
    """Gives the rows of this rank's part of a table length 1, in place; it must hold whole rows."""
    for local, _, _ in _local_parts(weight):
        for rows in local.split(ROWS_PER_BLOCK):
            rows.copy_(F.normalize(rows))


def _fill(
    name: str, local: Tensor, offsets: tuple[int, int], columns: int, std: float | None, seed: int, block: int
) -> None:
    """Fills the part of a block that `local` holds; `local` begins at (row, column) `offsets` of the whole table."""
    (first_row, first_column), (height, width) = offsets, local.shape
    entropy = np.random.SeedSequence([seed, zlib.crc32(name.encode()), block]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(entropy[0]))
    rows = torch.empty(ROWS_PER_BLOCK, columns).normal_(0.0, 1.0 if std is None else std, generator=generator)
    if std is None:
        rows = F.normalize(rows)
    above = block * ROWS_PER_BLOCK
    start, stop = max(first_row, above), min(first_row + height, above + ROWS_PER_BLOCK)
    local[start - first_row : stop - first_row] = rows[
        start - above : stop - above, first_column : first_column + width
    ]


def _local_parts(weight: Tensor | ShardedTensor) -> Iterator[tuple[Tensor, tuple[int, int], int]]:
    """This rank's parts of the table: values, (row, column) of the first one, and the number of columns in all."""
    if isinstance(weight, ShardedTensor):
        for shard in weight.local_shards():
            first_row, first_column = shard.metadata.shard_offsets
            yield shard.tensor, (first_row, first_column), weight.size(1)
    else:
        yield weight, (0, 0), weight.shape[1]
