"""Lengths and the projection of sampled vectors."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from twhin_core.report import vectors
from twhin_core.report.vectors import sample_rows
from twhin_core.vectors.rows import Rows, SelectedRows, TensorRows


class Counting:
    """A table of `size` rows that are made when they are read, and counted."""

    dim = 4

    def __init__(self, size: int) -> None:
        self.size, self.read_rows = size, 0

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.gather(np.arange(start, stop))

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        assert rows.min() >= 0
        assert rows.max() < self.size
        self.read_rows += len(rows)
        return torch.from_numpy(np.sin(rows[:, None] * [1.0, 2, 3, 4])).float()


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([5.0, 1, 3, 0.5, 0.1, 2])
    coordinates, shares = vectors.principal_components(rows + 10)
    centered = (rows - rows.mean(0)).double().numpy()
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    assert shares == pytest.approx(singular[:2] ** 2 / (singular**2).sum(), rel=1e-5)
    for column in range(2):
        expected = left[:, column] * singular[column]
        assert np.abs(coordinates[:, column].numpy()) == pytest.approx(np.abs(expected), abs=1e-4)


def test_components_of_the_same_rows_are_the_same_whatever_their_sign() -> None:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    again, _ = vectors.principal_components(rows.flip(0))
    assert torch.allclose(vectors.principal_components(rows)[0], again.flip(0), atol=1e-5)


def test_two_groups_lie_apart_in_their_own_colors() -> None:
    near = torch.randn(300, 8, generator=torch.Generator().manual_seed(3)) / 100
    tables: dict[str, Rows] = {"user": TensorRows(near + 1), "tweet": TensorRows(near[:100] - 1)}
    plane = vectors.collect(tables, seed=0, unit_length=False)["projection"]
    assert plane is not None
    assert plane.tables == [("user", 300), ("tweet", 100)]
    assert plane.shares[0] > 0.99
    across: dict[int, list[float]] = {0: [], 1: []}
    for color, points in plane.layers:
        across[color] += [float(x) for x in re.findall(r"M([\d.]+) ", points)]
    assert [len(of) for of in across.values()] == [300, 100]
    assert max(across[0]) < min(across[1]) - 100 or max(across[1]) < min(across[0]) - 100


def test_lengths_are_of_the_rows() -> None:
    rows = torch.zeros(101, 4)
    rows[:, 1] = torch.arange(101) / 10
    (norms,) = vectors.collect({"user": TensorRows(rows)}, seed=0, unit_length=True)["norms"]
    assert (norms.sampled, norms.median) == (101, pytest.approx(5))
    assert (norms.low, norms.high) == (pytest.approx(0.5), pytest.approx(9.5))
    assert norms.chart is not None


def test_equal_lengths_have_no_histogram() -> None:
    """As of unit rows: its axis would be of rounding errors alone."""
    rows = torch.nn.functional.normalize(torch.randn(500, 7))
    (norms,) = vectors.collect({"user": TensorRows(rows)}, seed=0, unit_length=True)["norms"]
    assert norms.chart is None
    assert norms.median == pytest.approx(1)


def test_rows_that_are_all_the_same_have_no_projection() -> None:
    found = vectors.collect({"user": TensorRows(torch.ones(50, 4))}, seed=0, unit_length=False)
    assert found["projection"] is None
    assert len(found["norms"]) == 1


def test_of_a_large_table_a_sample_is_read() -> None:
    tables = {"user": Counting(10**9), "tweet": Counting(70)}
    found = vectors.collect(dict(tables), seed=0, unit_length=False)
    assert tables["user"].read_rows == found["norms"][0].sampled == vectors.SAMPLE
    assert tables["tweet"].read_rows == 70
    assert found["projection"] is not None
    assert sum(points for _, points in found["projection"].tables) <= vectors.POINTS


def test_of_many_tables_the_largest_are_shown() -> None:
    tables: dict[str, Rows] = {f"t{size}": Counting(size) for size in range(10, 30)}
    found = vectors.collect(tables, seed=0, unit_length=False)
    assert [norms.table for norms in found["norms"]] == [f"t{size}" for size in range(22, 30)]


@pytest.mark.parametrize("size", [1, 31, 4096, 4097, 100_003, 10**9])
def test_sampled_rows_are_distinct_and_of_the_table(size: int) -> None:
    rows = sample_rows(size, 4096)
    assert len(rows) == min(size, 4096)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < size


def test_sampled_rows_come_from_everywhere() -> None:
    rows = sample_rows(10**6, 4096, seed=1)
    assert np.histogram(rows, bins=8, range=(0, 10**6))[0].min() > 0.5 * 4096 / 8


def test_rows_that_are_no_nodes_are_not_seen() -> None:
    table = SelectedRows(TensorRows(torch.eye(8)), 5)
    assert (table.size, table.dim) == (5, 8)
    assert torch.equal(table.gather(np.array([4, 0])), torch.eye(8)[[4, 0]])


@pytest.mark.parametrize(
    ("dim", "spread", "is_drawn"),
    [(64, 1.0, False), (40, 1.0, False), (8, 1.0, True), (2, 1.0, True), (64, 4.0, True), (200, 1.0, False)],
)
def test_a_projection_of_next_to_nothing_is_not_drawn(dim: int, spread: float, is_drawn: bool) -> None:
    """Two of n equal directions carry 2/n of the variance; a first one, four times as wide, carries 16/(n + 15)."""
    rows = torch.randn(4000, dim, generator=torch.Generator().manual_seed(dim))
    rows[:, 0] *= spread
    plane = vectors.collect({"user": TensorRows(rows)}, seed=0, unit_length=False)["projection"]
    assert plane is not None
    assert sum(plane.shares) == pytest.approx((spread**2 + 1) / (dim - 1 + spread**2), rel=0.5)
    assert plane.is_drawn == is_drawn


def test_tables_of_one_length_are_named_together() -> None:
    unit = torch.nn.functional.normalize(torch.randn(50, 7), dim=1)
    tables: dict[str, Rows] = {
        "a": TensorRows(unit), "b": TensorRows(torch.randn(50, 7)), "c": TensorRows(unit[:9]), "d": TensorRows(2 * unit)
    }  # fmt: skip
    assert vectors.collect(tables, seed=0, unit_length=False)["constant"] == {"1": ["a", "c"], "2": ["d"]}
