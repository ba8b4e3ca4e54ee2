"""The next item is made while the present one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order, each made in a thread while its predecessor is used."""
    # One thread of torch's for the making: more would wait for cores that the use needs, and the use for them.
    with ThreadPoolExecutor(1, "prefetch", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = pool.submit(_next, items)
        while item := coming.result():
            coming = pool.submit(_next, items)
            yield item[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item in a tuple, or None after the last one; StopIteration cannot leave a thread."""
    return next(((item,) for item in items), None)
