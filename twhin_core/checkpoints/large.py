"""Loads large tensors block by block. torch.distributed.checkpoint would read each whole first, into as much memory."""

from __future__ import annotations

from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from twhin_core.checkpoints.stored_tensor import PIECE_BYTES, StoredTensor
from twhin_core.distributed.parts import local_parts

LARGE_BYTES = 1 << 30


def is_large(value: Tensor | ShardedTensor) -> bool:
    """Whether a tensor is worth it; the same on every rank."""
    return len(value.size()) in (1, 2) and value.size().numel() * value.dtype.itemsize > LARGE_BYTES


def fill(value: Tensor | ShardedTensor, stored: StoredTensor) -> None:
    """Sets a tensor, or this rank's shards of it, to what is stored. Raises as `StoredTensor.read`."""
    assert tuple(value.size()) == tuple(stored.shape)
    step = max(1, PIECE_BYTES // (4 * stored.dim))
    for part in local_parts(value):
        values = part.values.detach()
        columns = slice(part.first_column, part.first_column + values[:1].numel())
        for start in range(0, len(values), step):
            target = values[start : start + step]
            rows = stored.read(part.first_row + start, part.first_row + start + len(target))
            target.copy_(rows[:, columns].view_as(target))
