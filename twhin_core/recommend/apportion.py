"""Divides the places of lists among clusters, and merges lists."""

from __future__ import annotations

import numpy as np

from twhin_core.ranking.best import NONE
from twhin_core.ranking.queries import Floats, Ints

LINES_AT_ONCE = 4096
"""Users whose lists are merged at once, which bounds the memory."""


def apportion(shares: Floats, places: int, supply: Ints) -> Ints:
    """Divides `places` in proportion to shares, by largest remainders: int64 [Q, m].

    Whoever cannot fill its places hands them on to the others, in the same proportion. The first of equal remainders
    gets the place.

    Args:
        shares: float64 [Q, m], not negative; a share of 0 gets nothing.
        supply: int64 [Q, m], the most that each can fill.
    """
    places_left = np.full(len(shares), places)
    given, weight = np.zeros_like(supply), np.where(supply > 0, shares, 0.0)
    while True:
        total = weight.sum(1)
        ideal = weight * np.divide(places_left, total, out=np.zeros(len(weight)), where=total > 0)[:, None]
        is_short = (weight > 0) & (ideal >= supply)
        if not is_short.any():
            break
        given[is_short], weight[is_short] = supply[is_short], 0.0
        places_left = np.maximum(places - given.sum(1), 0)
    whole = np.floor(ideal).astype(np.int64)
    places_left = np.where(total > 0, places_left, 0) - whole.sum(1)
    order = np.argsort(whole - ideal, axis=1, kind="stable")
    whole += np.argsort(order, axis=1) < places_left[:, None]
    given += whole
    return given


def take_turns(first: Ints, second: Ints, share: float, k: int) -> Ints:
    """Merges two lists of each query: places in [first | second] of the first k distinct numbers.

    Number i of a list is due at (i + 1/2) / its share, so that every beginning has both in proportion.

    Args:
        first, second: int64 [Q, n] each, distinct numbers, then `NONE`.
        share: of the first list, above 0; with 1, the second only follows it.

    Returns:
        int64 [Q, k]: columns of the two arrays beside each other, `NONE` behind the last.
    """
    due = np.arange(first.shape[1]) + 0.5
    later = due / (1 - share) if share < 1 else np.full(len(due), np.inf)
    turns = np.argsort(np.concatenate([due / share, later]), kind="stable")
    merged = [np.empty((0, k), np.int64)]
    for start in range(0, len(first), LINES_AT_ONCE):
        numbers = np.concatenate([of[start : start + LINES_AT_ONCE] for of in (first, second)], 1)[:, turns]
        order = np.argsort(numbers, axis=1, kind="stable")
        ordered = np.take_along_axis(numbers, order, 1)
        is_new = np.empty(ordered.shape, bool)
        np.put_along_axis(is_new, order, np.diff(ordered, axis=1, prepend=NONE) != 0, 1)  # NONE is the least
        kept = np.argsort(~is_new, axis=1, kind="stable")[:, :k]
        merged.append(np.where(np.take_along_axis(is_new, kept, 1), turns[kept], NONE))
    return np.concatenate(merged)
