"""Blocks of candidates are even, and reach the device unchanged but for the rounding asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twhin_core.ranking.staging import even_blocks, staged_blocks
from twhin_core.vectors.rows import TensorRows

CPU = torch.device("cpu")


@given(st.integers(1, 10**10), st.integers(1, 10**6), st.sampled_from([1, 64, 1024]))
def test_blocks_are_as_few_as_can_be_and_even(count: int, times: int, unit: int) -> None:
    most = times * unit
    size = even_blocks(count, most, unit)
    assert size % unit == 0
    assert size <= most
    fewest = -(-count // most)
    assert -(-count // size) <= fewest
    assert size - unit < count / fewest, "a smaller size would need more blocks"


def test_a_cpu_gets_the_rows_themselves() -> None:
    table = torch.randn(70, 3)
    found = list(staged_blocks(TensorRows(table), 32, CPU, torch.bfloat16))
    assert [start for start, _ in found] == [0, 32, 64]
    assert torch.equal(torch.cat([vectors for _, vectors in found]), table)
    assert all(vectors.data_ptr() == table[start].data_ptr() for start, vectors in found), "nothing is copied"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gets_the_rows_rounded(dtype: torch.dtype) -> None:
    """More blocks than buffers, the last one shorter, each in use for a while as the next ones are copied."""
    table = torch.randn(9 * 4096 + 5, 256)
    found, slow = [], torch.randn(4096, 4096, device="cuda")
    for start, vectors in staged_blocks(TensorRows(table), 4096, torch.device("cuda"), dtype):
        slow = slow @ slow
        found.append((start, vectors.clone()))
        del vectors
    assert [start for start, _ in found] == list(range(0, len(table), 4096))
    assert torch.equal(torch.cat([vectors for _, vectors in found]).cpu(), table.to(dtype))
