"""The best candidates of queries, against a sort of all scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.errors import UserError
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE, find_best
from twhin_core.ranking.products import Arithmetic, Candidates, Shape
from twhin_core.vectors.rows import TensorRows

CPU = torch.device("cpu")


def find(
    queries: torch.Tensor, table: torch.Tensor, k: int, shape: Shape, pairs: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    candidates = Candidates(TensorRows(table), None, Arithmetic("fp32", CPU), shape, 1 << 20)
    return find_best(queries, candidates, k, (pairs[:, 0], pairs[:, 1]), Progress("test", 1, "scores", quiet=True))


@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 70),
    size=st.integers(1, 300),
    k=st.integers(1, 40),
    lines=st.sampled_from([16, 32]),
    width=st.sampled_from([64, 128]),
    distinct=st.booleans(),
)
@settings(max_examples=60)
def test_the_lists_are_the_heads_of_all_scores_in_order(
    seed: int, queries: int, size: int, k: int, lines: int, width: int, distinct: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Small integers are exact in fp32 and tie often; normal numbers never do.
    drawn = [rng.normal(size=(of, 3)) if distinct else rng.integers(-2, 3, (of, 3)) for of in (queries, size)]
    left, right = (torch.from_numpy(of.astype(np.float32)) for of in drawn)
    pairs = np.stack([rng.integers(queries, size=2 * size), rng.integers(size, size=2 * size)], 1)
    k = min(k, size)
    products, columns = find(left, right, k, Shape(lines, width), pairs)
    scores = left.numpy().astype(np.float64) @ right.numpy().astype(np.float64).T
    scores[pairs[:, 0], pairs[:, 1]] = -np.inf
    expected = -np.sort(-scores, 1)[:, :k]
    np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-5)
    for query in range(queries):
        found = columns[query][products[query] > -torch.inf].numpy()
        assert len(set(found.tolist())) == len(found) == min(k, np.isfinite(scores[query]).sum())
        np.testing.assert_allclose(scores[query, found], expected[query, : len(found)], rtol=1e-5, atol=1e-5)
        if not distinct:  # the smaller column comes first among equal scores
            assert sorted(zip(-scores[query, found], found, strict=True)) == list(
                zip(-scores[query, found], found, strict=True)
            )
        assert (columns[query][len(found) :] == NONE).all()


def test_lists_are_right_whether_many_scores_of_a_block_pass_or_none() -> None:
    """Ascending scores, of which all pass, and descending ones, of which none does after the first block."""
    queries, rows = torch.tensor([[1.0], [-1.0]]), torch.arange(6400, dtype=torch.float32)[:, None]
    products, columns = find(queries, rows, 8, Shape(16, 64), np.empty((0, 2), np.int64))
    assert columns.tolist() == [[*range(6399, 6391, -1)], [*range(8)]]
    assert products.tolist() == [[*range(6399, 6391, -1)], [*range(0, -8, -1)]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    table = torch.zeros(100, 2)
    table[70, 1] = value
    with pytest.raises(UserError, match="scores are not finite"):
        find(torch.ones(3, 2), table, 5, Shape(16, 64), np.empty((0, 2), np.int64))
