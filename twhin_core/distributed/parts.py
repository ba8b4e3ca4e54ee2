"""This rank's parts of a tensor that ranks share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor


class Part(NamedTuple):
    """A rank's part of a table or of its optimizer's state."""

    values: Tensor
    """[rows, columns], or [rows] of a state with one value per row."""
    first_row: int
    first_column: int


def local_parts(whole: Tensor | ShardedTensor) -> Iterator[Part]:
    """This rank's parts of a table or of its optimizer's state."""
    if isinstance(whole, ShardedTensor):
        for shard in whole.local_shards():
            first_row, *first_column = shard.metadata.shard_offsets
            yield Part(shard.tensor, first_row, first_column[0] if first_column else 0)
    else:
        yield Part(whole, 0, 0)
