"""Sorting bounded integers gives what a plain sort gives."""

from __future__ import annotations

import pytest
import torch

from twhin_core.model.sorting import stable_argsort, unique


@pytest.mark.parametrize("limit", [50, 2**16, 2**16 + 1, 2**33])
def test_equal_values_keep_their_order_however_large_they_are(limit: int) -> None:
    values = torch.randint(limit, (500,), generator=torch.Generator().manual_seed(0)).repeat(2)
    assert stable_argsort(values, limit).tolist() == sorted(range(1000), key=lambda row: int(values[row]))


@pytest.mark.parametrize("limit", [50, 10_000_000])  # by marking, and by sorting
def test_each_value_is_found_at_its_index(limit: int) -> None:
    values = torch.randint(limit, (300,), generator=torch.Generator().manual_seed(0)).repeat(2)
    found, index = unique(values, limit)
    assert found.tolist() == sorted(set(values.tolist()))
    assert found[index].tolist() == values.tolist()
