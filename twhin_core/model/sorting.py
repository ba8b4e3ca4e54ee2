"""Sorting of row numbers, faster than a general sort because they are bounded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def unique(values: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The distinct values, sorted, and the index of each value among them; all values are in [0, limit)."""
    if limit > 64 * len(values):
        found, index = torch.unique(values, return_inverse=True)
        return found, index
    # Marking the values that occur is faster than sorting, unless far more could occur than do.
    occurs = torch.zeros(limit, dtype=torch.bool)
    occurs[values] = True
    found = occurs.nonzero().squeeze(1)
    index = torch.empty(limit, dtype=torch.int64)
    index[found] = torch.arange(len(found))
    return found, index[values]


def sort_by_index(gathers: list[Tensor], looked_up: int) -> tuple[Tensor, Tensor]:
    """The stable argsort of all gathers, concatenated, and where each looked-up row begins in it.

    Args:
        gathers: int64, each value in [0, looked_up).

    Returns:
        int64 [total length of the gathers], int64 [looked_up + 1].
    """
    index = torch.cat(gathers)
    start = torch.zeros(looked_up + 1, dtype=torch.int64)
    torch.cumsum(index.bincount(minlength=looked_up), 0, out=start[1:])
    return stable_argsort(index, looked_up), start


def stable_argsort(values: Tensor, limit: int) -> Tensor:
    """The stable argsort of values in [0, limit)."""
    # numpy sorts 16-bit integers by radix, in a fifth of the time that wider ones take.
    numbers = values.numpy()
    order = np.argsort(numbers.astype(np.uint16), kind="stable")
    digit = 16
    while limit >> digit:
        order = order[np.argsort((numbers >> digit).astype(np.uint16)[order], kind="stable")]
        digit += 16
    return torch.from_numpy(order)


def sort_on_device(gathers: list[Tensor], looked_up: int) -> tuple[Tensor, Tensor]:
    """As `sort_by_index`, on the gathers' device."""
    index, order = torch.cat(gathers).sort(stable=True)
    return order, torch.searchsorted(index, torch.arange(looked_up + 1, device=index.device))
