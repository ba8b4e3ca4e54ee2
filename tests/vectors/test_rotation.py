"""The rotation of one version's vectors onto another's, against planted ones and all angles of the plane."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.vectors import rotation
from twhin_core.vectors.rotation import Overlap, fit, overlap, rotated
from twhin_core.vectors.rows import TensorRows

seeds = st.integers(0, 2**32 - 1)


def drawn(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def orthogonal(rng: np.random.Generator, dim: int) -> torch.Tensor:
    """A random orthogonal matrix, as a product of reflections."""
    matrix = np.eye(dim)
    for _ in range(dim):
        axis = rng.normal(size=dim)
        matrix -= 2 * np.outer(matrix @ axis, axis) / (axis @ axis)
    return torch.from_numpy(matrix.astype(np.float32))


def overlap_of(now: torch.Tensor, before: torch.Tensor) -> Overlap:
    found = Overlap(now.shape[1])
    found.add(now, before)
    return found


@given(seeds, st.integers(1, 7), st.integers(0, 30))
@settings(max_examples=100)
def test_a_planted_rotation_is_found_whatever_the_lengths(seed: int, dim: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    before, planted = drawn(rng, dim + more, dim), orthogonal(rng, dim)
    now = before @ planted.T * torch.from_numpy(rng.uniform(0.1, 10, (dim + more, 1)).astype(np.float32))
    found = fit([overlap_of(now, before)])
    assert found.dtype == torch.float64
    assert found @ found.T == pytest.approx(torch.eye(dim).numpy(), abs=1e-12)
    if np.linalg.cond(before.numpy()) < 100:
        assert found.numpy() == pytest.approx(planted.numpy(), abs=1e-3)
    assert overlap_of(now, before).cosine(found) == pytest.approx(1, abs=1e-5)


@given(seeds, st.integers(1, 9))
@settings(max_examples=30)
def test_no_angle_of_the_plane_is_better(seed: int, pairs: int) -> None:
    rng = np.random.default_rng(seed)
    now, before = rng.normal(size=(pairs, 2)), rng.normal(size=(pairs, 2))
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)

    def cosines(of: np.ndarray) -> float:
        lengths = np.linalg.norm(of, axis=1) * np.linalg.norm(before, axis=1)
        return float(((of * before).sum(1) / lengths).mean())

    turns = [np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in angles]
    flips = [turn @ np.diag([1.0, -1.0]) for turn in turns]
    best = max(cosines(now @ turn) for turn in turns + flips)
    found = overlap_of(torch.from_numpy(now), torch.from_numpy(before))
    matrix = fit([found])
    assert cosines(now @ matrix.numpy()) == pytest.approx(found.cosine(matrix), abs=1e-9)
    assert best - 1e-9 <= found.cosine(matrix) <= best + 1e-5
    assert found.cosine() == pytest.approx(cosines(now), abs=1e-9)
    assert found.cosine(matrix) >= found.cosine() - 1e-12, "never worse than no rotation"


def test_tables_share_one_rotation_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    tables = [(drawn(rng, n, 5), drawn(rng, n, 5)) for n in (40, 7)]
    whole = fit([overlap_of(*pair) for pair in tables])
    together = fit([overlap_of(*(torch.cat(of) for of in zip(*tables, strict=True)))])
    monkeypatch.setattr(rotation, "BLOCK_BYTES", 3 * 4 * 5)
    streamed = fit([overlap(TensorRows(now), TensorRows(before)) for now, before in tables])
    for found in (together, streamed):
        assert found.numpy() == pytest.approx(whole.numpy(), abs=1e-12)


def test_vectors_of_zeros_have_no_say() -> None:
    rng = np.random.default_rng(4)
    now, before, zeros = drawn(rng, 6, 3), drawn(rng, 6, 3), torch.zeros(2, 3)
    without = overlap_of(now, before)
    found = overlap_of(torch.cat([now, zeros]), torch.cat([before, torch.ones(2, 3)]))
    assert torch.equal(found.products, without.products)
    assert found.cosine() == pytest.approx(without.cosine() * 6 / 8)


def test_rows_are_multiplied_as_they_are_read() -> None:
    rng = np.random.default_rng(5)
    vectors, matrix = drawn(rng, 9, 4), orthogonal(rng, 4)
    rows = rotated(TensorRows(vectors), matrix)
    expected = vectors.double().numpy() @ matrix.double().numpy()
    assert rows.read(2, 7).numpy() == pytest.approx(expected[2:7], abs=1e-5)
    assert rows.gather(np.array([8, 0, 8])).numpy() == pytest.approx(expected[[8, 0, 8]], abs=1e-5)
    assert rotated(rows, None) is rows
