"""Independent parts of work on a CPU in threads of their own.

Many operations are too small to be shared by threads: waiting for each other, and for each other's caches, costs them
more than they gain, and far more where other programs keep the cores busy. A thread per part, each with its share of
torch's threads, has nothing to wait for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], at_once: int = 2) -> list[Result]:
    """`function` of each item, `at_once` of them at a time if this thread may use several; autograd records none of it.

    A step has two parts that take equally long: the sides of a batch or, often, two tables. Work on a GPU must be taken
    one at a time, which leaves it in this thread: another would have another current device and stream.
    """
    threads = torch.get_num_threads()
    if threads == 1 or at_once == 1:
        return list(map(function, items))
    return list(_pool(threads, at_once).map(function, items))


@functools.cache
def _pool(threads: int, at_once: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(at_once, "part", lambda: torch.set_num_threads(max(1, threads // at_once)))
