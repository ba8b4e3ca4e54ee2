"""What is made ahead comes in order, at the right time, with its errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from twhin_core.data.prefetch import one_ahead


def test_items_come_in_order_even_those_that_are_false() -> None:
    assert list(one_ahead(iter([3, 0, None, [], 1]))) == [3, 0, None, [], 1]
    assert list(one_ahead(iter([]))) == []


def test_the_next_one_is_made_while_the_present_one_is_used() -> None:
    second_is_made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_is_made.set()
        yield 2

    present = one_ahead(items())
    assert next(present) == 1
    assert second_is_made.wait(timeout=30)


def test_no_more_than_one_is_made_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            made.append(item)
            yield item

    present = one_ahead(items())
    assert [next(present), next(present)] == [0, 1]
    assert max(made) <= 2


def test_an_error_reaches_the_one_who_waits_for_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    present = one_ahead(items())
    assert next(present) == 1
    with pytest.raises(ValueError, match="broken"):
        next(present)
