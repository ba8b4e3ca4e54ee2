"""Scores of given candidates, against plain products."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.ranking import rescore as module
from twhin_core.ranking.best import NONE


@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 20),
    found=st.integers(1, 9),
    k=st.integers(1, 12),
    at_once=st.sampled_from([1, 50, 1 << 20]),
)
@settings(max_examples=60)
def test_the_best_of_those_given_in_order(seed: int, queries: int, found: int, k: int, at_once: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, table = (torch.from_numpy(rng.integers(-9, 10, (of, 3)).astype(np.float32)) for of in (queries, 30))
    columns = np.stack([rng.choice(30, found, replace=False) for _ in range(queries)])
    columns[rng.random(columns.shape) < 0.3] = NONE
    with mock.patch.object(module, "AT_ONCE", at_once):
        products, chosen = module.rescore(vectors, lambda rows: table[torch.from_numpy(rows)], columns, k)
    assert chosen.shape == products.shape == (queries, min(k, found))
    for query in range(queries):
        scores = {int(of): float(vectors[query] @ table[of]) for of in columns[query] if of != NONE}
        expected = sorted(scores.values(), reverse=True)[:k]
        there = chosen[query] != NONE
        assert there.tolist() == [place < len(expected) for place in range(min(k, found))]
        assert products[query][there].tolist() == expected
        assert [scores[of] for of in chosen[query][there].tolist()] == expected
        assert (products[query][~there] == -torch.inf).all()
