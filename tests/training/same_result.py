"""Compares the results of two runs."""

from __future__ import annotations

import torch

from twhin_core.checkpoints import checkpoint


def assert_same_result(root: str, other: str) -> None:
    """Asserts that both runs end after the same step with bitwise equal tables."""
    end, other_end = checkpoint.newest(root), checkpoint.newest(other)
    assert end is not None
    assert other_end is not None
    assert end.marker == other_end.marker
    for table, rows in {"user": 40, "tweet": 30}.items():
        assert torch.equal(end.rows(table).read(0, rows), other_end.rows(table).read(0, rows))
