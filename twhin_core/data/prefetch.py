"""Prefetching: produces the next items of a generator while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Iterates over `items`, with `count` of them produced ahead in a thread, which starts at once.

    Leaving the context closes `items`.
    """

    def __init__(self, items: Generator[T], count: int = 1, initializer: Callable[[], None] | None = None) -> None:
        """`initializer` is called first in the thread."""
        self._items = items
        self._pool = ThreadPoolExecutor(1, "ahead", initializer)
        self._pending = deque(self._pool.submit(_next, items) for _ in range(count))

    def __iter__(self) -> Iterator[T]:
        while item := self._pending.popleft().result():
            self._pending.append(self._pool.submit(_next, self._items))
            yield item[0]

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._items.close()


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item in a tuple, or None after the last one, because a future cannot raise StopIteration."""
    return next(((item,) for item in items), None)
