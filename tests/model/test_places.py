"""Places are those that a plain sort gives."""

from __future__ import annotations

import pytest
import torch

from twhin_core.model.places import sorted_order, unique


@pytest.mark.parametrize("limit", [50, 2**16, 2**16 + 1, 2**33])
def test_equal_values_keep_their_order_however_large_they_are(limit: int) -> None:
    values = torch.randint(limit, (500,), generator=torch.Generator().manual_seed(0)).repeat(2)
    assert sorted_order(values, limit).tolist() == sorted(range(1000), key=lambda row: int(values[row]))


@pytest.mark.parametrize("limit", [50, 10_000_000])  # by ticking off, and by sorting
def test_each_value_has_one_place_in_their_order(limit: int) -> None:
    values = torch.randint(limit, (300,), generator=torch.Generator().manual_seed(0)).repeat(2)
    found, place = unique(values, limit)
    assert found.tolist() == sorted(set(values.tolist()))
    assert found[place].tolist() == values.tolist()
