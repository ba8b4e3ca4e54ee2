"""Loads large tensors block by block. torch.distributed.checkpoint would read each whole first, into as much memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from twhin_core.checkpoints.stored_tensor import PIECE_BYTES, StoredTensor

LARGE_BYTES = 1 << 30


def is_large(value: Tensor | ShardedTensor) -> bool:
    """Whether a tensor is worth it; the same on every rank."""
    return len(value.size()) in (1, 2) and value.size().numel() * value.dtype.itemsize > LARGE_BYTES


def fill(value: Tensor | ShardedTensor, stored: StoredTensor) -> None:
    """Sets a tensor, or this rank's shards of it, to what is stored. Raises as `StoredTensor.read`."""
    assert tuple(value.size()) == tuple(stored.shape)
    for part, first_row, columns in _parts(value):
        step = max(1, PIECE_BYTES // (4 * stored.dim))
        for start in range(0, len(part), step):
            target = part[start : start + step]
            rows = stored.read(first_row + start, first_row + start + len(target))
            target.copy_(rows[:, columns].view_as(target))


def _parts(value: Tensor | ShardedTensor) -> Iterator[tuple[Tensor, int, slice]]:
    """This rank's parts, each with its first row and its columns."""
    if not isinstance(value, ShardedTensor):
        yield value.detach(), 0, slice(None)
        return
    for shard in value.local_shards():
        first_row, *first_column = shard.metadata.shard_offsets
        tensor = shard.tensor.detach()
        yield (
            tensor,
            first_row,
            slice(first_column[0], first_column[0] + tensor.shape[1]) if first_column else slice(None),
        )
