"""Maps between spaces, against values computed by hand, least squares over more rows, and all angles of the plane."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectors.test_rotation import drawn, orthogonal, seeds
from twhin_core.vectors.linear_map import Pairs

dims = st.integers(1, 6)


def pairs_of(now: torch.Tensor, before: torch.Tensor) -> Pairs:
    found = Pairs(now.shape[1], before.shape[1])
    found.add(now, before)
    return found


@pytest.mark.parametrize(
    ("now", "before", "matrix"),
    [
        ([[1], [2]], [[2], [2]], [[6 / 5.25]]),  # the mean of 1 and 4 is 2.5, of which a tenth is added to 5
        ([[1, 0], [0, 1]], [[3], [5]], [[3 / 1.1], [5 / 1.1]]),
        ([[2]], [[1, -1, 0]], [[2 / 4.4, -2 / 4.4, 0]]),
        ([[3, 0], [0, 1]], [[3, 0], [0, 1]], [[9 / 9.5, 0], [0, 1 / 1.5]]),  # mean 5
        ([[0, 0], [2, 0]], [[7], [2]], [[4 / 4.2], [0]]),  # what has no length has no say
    ],
)
def test_matrices_computed_by_hand(
    now: list[list[float]], before: list[list[float]], matrix: list[list[float]]
) -> None:
    found = pairs_of(torch.tensor(now, dtype=torch.float32), torch.tensor(before, dtype=torch.float32)).linear()
    assert found.numpy() == pytest.approx(np.array(matrix), abs=1e-9)


def with_ridge(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Least squares with dim more pairs, each along one axis and mapped to zero."""
    more = np.sqrt(0.1 * (now**2).sum(1).mean()) * np.eye(now.shape[1])
    targets = np.zeros((now.shape[1], before.shape[1]))
    return np.linalg.lstsq(np.concatenate([now, more]), np.concatenate([before, targets]))[0]


@given(seeds, dims, dims, st.integers(1, 40))
@settings(max_examples=100)
def test_the_linear_map_is_that_of_least_squares(seed: int, dim: int, dim_before: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    now, before = drawn(rng, count, dim), drawn(rng, count, dim_before)
    found = pairs_of(now, before).linear()
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(with_ridge(now.double().numpy(), before.double().numpy()), abs=1e-6)


@given(seeds, dims, st.integers(0, 30))
@settings(max_examples=100)
def test_a_planted_rotation_is_found(seed: int, dim: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    before, planted = drawn(rng, dim + more, dim), orthogonal(rng, dim)
    found = pairs_of(before @ planted.T, before).orthogonal()
    assert found.dtype == torch.float64
    assert found @ found.T == pytest.approx(torch.eye(dim).numpy(), abs=1e-12)
    if np.linalg.cond(before.numpy()) < 100:
        assert found.numpy() == pytest.approx(planted.numpy(), abs=1e-3)


@given(seeds, st.integers(1, 9))
@settings(max_examples=30)
def test_no_angle_of_the_plane_has_a_smaller_error(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    now, before = rng.normal(size=(count, 2)) * rng.uniform(0.1, 10, (count, 1)), rng.normal(size=(count, 2))
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    turns = [np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in angles]
    flips = [turn @ np.diag([1.0, -1.0]) for turn in turns]

    def error(matrix: np.ndarray) -> float:
        return float(((now @ matrix - before) ** 2).sum())

    found = pairs_of(torch.from_numpy(now), torch.from_numpy(before)).orthogonal().numpy()
    best = min(map(error, turns + flips))
    # The error is a constant less a cosine of the angle times twice at most these lengths.
    between = 2 * np.linalg.norm(now) * np.linalg.norm(before) * (1 - np.cos(np.pi / len(angles)))
    assert best - between - 1e-9 <= error(found) <= best + 1e-9


def test_blocks_change_nothing() -> None:
    rng = np.random.default_rng(3)
    now, before = drawn(rng, 20, 4), drawn(rng, 20, 4)
    whole, streamed = pairs_of(now, before), Pairs(4, 4)
    for rows in (slice(0, 7), slice(7, 7), slice(7, 20)):
        streamed.add(now[rows], before[rows])
    assert streamed.count == whole.count == 20
    assert streamed.linear().numpy() == pytest.approx(whole.linear().numpy(), abs=1e-12)
    assert streamed.orthogonal().numpy() == pytest.approx(whole.orthogonal().numpy(), abs=1e-12)
