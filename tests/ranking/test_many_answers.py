"""Answers looked up among sorted scores are counted as if each were compared with every score."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.ranking.many_answers import group_answers


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    width=st.integers(1, 70),
    values=st.sampled_from([2, 5, 1000]),
    filtered=st.floats(0, 1),
)
def test_counts_equal_comparisons(counts: list[int], width: int, values: int, filtered: float) -> None:
    """`values`: scores are drawn from so many, so that few tie; a share of them is `filtered`."""
    rng = np.random.default_rng([*counts, width, values])
    scores = rng.integers(values, size=(len(counts), width)).astype(np.float32)
    scores[rng.random(scores.shape) < filtered] = -np.inf
    row = np.repeat(np.arange(len(counts)), counts)
    own = rng.integers(values, size=len(row)).astype(np.float32)
    expected = [
        2 * (scores[of] > score).sum() + (scores[of] == score).sum() for of, score in zip(row, own, strict=True)
    ]
    above = torch.full((len(row),), 7)
    for group in group_answers(row, own):
        group.add_counts(scores, above)
    assert (above - 7).tolist() == expected
