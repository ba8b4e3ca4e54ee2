"""Places of lists, divided and merged, against exact fractions and plain loops."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.ranking.best import NONE
from twhin_core.recommend import apportion as places_of
from twhin_core.recommend.apportion import apportion, take_turns


def ideal_places(shares: list[int], places: int, supply: list[int]) -> list[Fraction]:
    """Places in exact proportion, those that a supply cannot fill handed on."""
    found, open_ = [Fraction(0)] * len(shares), {at for at, share in enumerate(shares) if share and supply[at]}
    while open_:
        left = places - sum(found)
        total = sum(shares[at] for at in open_)
        ideal = {at: left * Fraction(shares[at], total) for at in open_}
        short = {at for at in open_ if ideal[at] >= supply[at]}
        if not short:
            for at in open_:
                found[at] = ideal[at]
            break
        for at in short:
            found[at] = Fraction(supply[at])
        open_ -= short
    return found


@given(data=st.data(), places=st.integers(1, 60), width=st.integers(1, 6))
@settings(max_examples=200)
def test_places_are_divided_by_largest_remainders(data: st.DataObject, places: int, width: int) -> None:
    numbers = st.lists(st.integers(0, 40), min_size=width, max_size=width)
    lines = data.draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4))
    shares, supply = (np.array(of) for of in zip(*lines, strict=True))
    found = apportion(shares / np.maximum(shares.sum(1, keepdims=True), 1), places, supply)
    for given_, (share, most) in zip(found.tolist(), lines, strict=True):
        assert sum(given_) == min(places, sum(n for n, of in zip(most, share, strict=True) if of))
        ideal = ideal_places(share, places, most)
        rest = {}
        for at, exact in enumerate(ideal):
            assert abs(given_[at] - exact) < 1 + Fraction(1, 10**9)
            rest[at] = (exact - int(exact), given_[at] > exact)
        up = [of for of, is_up in rest.values() if is_up]
        down = [of for of, is_up in rest.values() if not is_up]
        assert not up or not down or min(up) >= max(down) - Fraction(1, 10**9)


@pytest.mark.parametrize(
    ("shares", "places", "supply", "expected"),
    [
        ([0.5, 0.3, 0.2], 10, [9, 9, 9], [5, 3, 2]),
        ([0.5, 0.3, 0.2], 3, [9, 9, 9], [1, 1, 1]),  # 1.5, .9, .6: one whole place, then the remainders .9 and .6
        ([0.5, 0.3, 0.2], 10, [1, 9, 9], [1, 5, 4]),  # 9 left, as 3 : 2, is 5.4 and 3.6
        ([0.5, 0.3, 0.2], 10, [1, 2, 3], [1, 2, 3]),
        ([0.5, 0.5, 0.0], 5, [9, 9, 9], [3, 2, 0]),
        ([0.0, 0.0, 0.0], 5, [9, 9, 9], [0, 0, 0]),
        ([1.0, 0.0, 0.0], 5, [2, 9, 9], [2, 0, 0]),
        ([0.25, 0.25, 0.5], 4, [0, 9, 9], [0, 1, 3]),  # 1.33 and 2.67
    ],
)
def test_places_by_hand(shares: list[float], places: int, supply: list[int], expected: list[int]) -> None:
    assert apportion(np.array([shares]), places, np.array([supply])).tolist() == [expected]


@given(data=st.data(), width=st.integers(1, 8), share=st.sampled_from([0.2, 0.5, 0.75, 1.0]), at_once=st.integers(1, 3))
@settings(max_examples=100)
def test_lists_take_turns(data: st.DataObject, width: int, share: float, at_once: int) -> None:
    lists = st.lists(st.integers(0, 9), max_size=width, unique=True)
    drawn = data.draw(st.lists(st.tuples(lists, lists), max_size=5))
    padded = [[[*of, *[NONE] * (width - len(of))] for of in pair] for pair in drawn]
    first, second = (np.array([pair[at] for pair in padded], np.int64).reshape(-1, width) for at in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places_of, "LINES_AT_ONCE", at_once)
        turns = take_turns(first, second, share, width)
    assert turns.shape == (len(drawn), width)
    for line, (one, two) in zip(turns.tolist(), drawn, strict=True):
        due = [((at + 0.5) / share, 0, at) for at in range(len(one))]
        due += [((at + 0.5) / (1 - share) if share < 1 else np.inf, 1, at) for at in range(len(two))]
        expected = list[int]()
        seen = set[int]()
        for _, which, at in sorted(due):
            if (number := (one, two)[which][at]) not in seen:
                seen.add(number)
                expected.append(which * width + at)
        assert line == (expected + [NONE] * width)[:width]
