"""The next items are made while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """The same items in the same order, `count` of them made ahead, in a thread of its own that begins at once.

    Leaving its block closes `items`.
    """

    def __init__(self, items: Generator[T], count: int = 1, initializer: Callable[[], None] | None = None) -> None:
        """`initializer` is called in the thread first."""
        self._items = items
        self._pool = ThreadPoolExecutor(1, "ahead", initializer)
        self._coming = deque(self._pool.submit(_next, items) for _ in range(count))

    def __iter__(self) -> Iterator[T]:
        while item := self._coming.popleft().result():
            self._coming.append(self._pool.submit(_next, self._items))
            yield item[0]

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._items.close()


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item in a tuple, or None after the last one; StopIteration cannot leave a thread."""
    return next(((item,) for item in items), None)
