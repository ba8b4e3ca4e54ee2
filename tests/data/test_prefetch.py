"""Prefetched items come in order, at the right time, with their errors."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import pytest

from twhin_core.data.prefetch import Ahead


def given(items: list[Any]) -> Generator[Any]:
    yield from items


@pytest.mark.parametrize("count", [1, 2, 10])
def test_items_come_in_order_including_false_ones(count: int) -> None:
    assert list(Ahead(given([3, 0, None, [], 1]), count)) == [3, 0, None, [], 1]
    assert list(Ahead(given([]), count)) == []


def test_the_next_item_is_produced_while_the_current_one_is_used() -> None:
    second_is_made = threading.Event()

    def items() -> Generator[int]:
        yield 1
        second_is_made.set()
        yield 2

    present = iter(Ahead(items()))
    assert next(present) == 1
    assert second_is_made.wait(timeout=30)


@pytest.mark.parametrize("count", [1, 3])
def test_at_most_count_items_are_produced_ahead(count: int) -> None:
    made: list[int] = []

    def items() -> Generator[int]:
        for item in range(20):
            made.append(item)
            yield item

    with Ahead(items(), count) as ahead:
        present = iter(ahead)
        assert [next(present), next(present)] == [0, 1]
    assert max(made) <= 1 + count


def test_leaving_the_context_closes_the_generator() -> None:
    closed = threading.Event()

    def items() -> Generator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with Ahead(items(), 4) as ahead:
        assert next(iter(ahead)) == 1
        assert not closed.is_set()
    assert closed.is_set()


def test_an_error_reaches_the_consumer() -> None:
    def items() -> Generator[int]:
        yield 1
        raise ValueError("broken")

    present = iter(Ahead(items()))
    assert next(present) == 1
    with pytest.raises(ValueError, match="broken"):
        next(present)
