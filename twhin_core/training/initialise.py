"""Initial weights that do not depend on how a table is sharded."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from twhin_core import limits
from twhin_core.distributed.parts import Part, local_parts

ROWS_PER_BLOCK = 16_384


def initialise_table(name: str, weight: Tensor | ShardedTensor, std: float | None, seed: int) -> None:
    """Fills this rank's part of a table, in place, with Normal(0, std²); with rows of length 1 if `std` is None.

    Rows are drawn in blocks, each with its own generator, so that a rank draws only the blocks that it holds a part of.
    """
    for part in local_parts(weight):
        local = part.values
        first, stop = part.first_row // ROWS_PER_BLOCK, -(-(part.first_row + local.shape[0]) // ROWS_PER_BLOCK)
        fill = partial(_fill, name, part, weight.size(1), std, seed)
        if local.is_cuda:  # one thread draws at a hundredth of the speed of the copy
            with ThreadPoolExecutor(limits.cores()) as pool:
                list(pool.map(fill, range(first, stop)))
        else:
            for block in range(first, stop):
                fill(block)


def normalise_rows(weight: Tensor | ShardedTensor) -> None:
    """Gives the rows of this rank's part of a table length 1, in place; it must hold whole rows."""
    for part in local_parts(weight):
        for rows in part.values.split(ROWS_PER_BLOCK):
            rows.copy_(F.normalize(rows))


def _fill(name: str, part: Part, columns: int, std: float | None, seed: int, block: int) -> None:
    """Fills what `part` holds of a block of a table with that many columns."""
    (local, first_row, first_column), (height, width) = part, part.values.shape
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
