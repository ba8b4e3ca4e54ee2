"""The losses of small fixed runs are what they were."""

from __future__ import annotations

import json

import pytest
import torch

from tests.golden import losses


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU draws other negatives")
def test_the_losses_of_fixed_runs_are_the_golden_ones() -> None:
    """Processors differ in the last bits of products; a change of the mathematics or of the draws shows from step 1."""
    golden = json.loads(losses.GOLDEN.read_text())
    measured = losses.measured()
    assert measured.keys() == golden.keys()
    for name, expected in golden.items():
        assert measured[name] == pytest.approx(expected, rel=1e-4), f"{name}: if this is meant, run `make goldens`"
        assert expected[-1] < expected[0], "it has learned"
