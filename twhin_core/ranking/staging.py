"""Reads a table block by block, and copies the blocks to a GPU while it computes."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from twhin_core.data.prefetch import Ahead
from twhin_core.vectors.rows import Rows, blocks


def even_blocks(count: int, most: int, unit: int) -> int:
    """The smallest multiple of `unit` that divides `count` rows into as few blocks as `most`, itself a multiple."""
    return math.ceil(count / math.ceil(count / most) / unit) * unit


def staged_blocks(
    rows: Rows, block_rows: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[int, Tensor]]:
    """(start, vectors [n, dim] on `device`) of all rows in order, `block_rows` at a time.

    On a GPU the vectors have `dtype`, and block k + 1 is copied while block k is used. On a CPU they are float32, as
    they were read.
    """
    if device.type == "cpu":
        yield from blocks(rows, block_rows)
        return
    with Ahead(_copies(rows, block_rows, device, dtype)) as ahead:
        for start, vectors, copied in ahead:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(copied)
            vectors.record_stream(stream)  # their memory belongs to the stream that copied them
            yield start, vectors


def _copies(
    rows: Rows, block_rows: int, device: torch.device, dtype: torch.dtype
) -> Generator[tuple[int, Tensor, torch.cuda.Event]]:
    """(start, vectors, event after which they are there), copied through two pinned buffers that take turns."""
    stream = torch.cuda.Stream(device)
    buffers = [torch.empty(block_rows, rows.dim, dtype=dtype, pin_memory=True) for _ in range(2)]
    copied = [torch.cuda.Event(), torch.cuda.Event()]
    for number, start in enumerate(range(0, rows.size, block_rows)):
        read, turn = rows.read(start, min(start + block_rows, rows.size)), number % 2
        copied[turn].synchronize()  # the buffer is free; an event that was never recorded is over
        buffer = buffers[turn][: len(read)]
        buffer.copy_(read)  # rounds to `dtype` here, so that fewer bytes are copied
        with torch.cuda.stream(stream):
            vectors = buffer.to(device, non_blocking=True)
        copied[turn] = stream.record_event()
        yield start, vectors, copied[turn]
