"""Independent parts of a CPU step in threads of their own.

Most operations of a step are too small to be shared by threads: waiting for each other, and for each other's caches,
costs them more than they gain. A thread per part, each with its share of torch's threads, has nothing to wait for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

PARTS = 2
"""The parts of a step that take equally long: the sides of a batch; often, two tables."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`function` of each item, two at a time if this thread may use several; autograd records none of it."""
    threads = torch.get_num_threads()
    if threads == 1:
        return list(map(function, items))
    return list(_pool(threads).map(function, items))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PARTS, "part", lambda: torch.set_num_threads(max(1, threads // PARTS)))
