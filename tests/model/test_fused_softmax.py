"""The fused loss equals the one with all scores in memory, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.log_sum_exp import METRICS, in_float64

pytest.importorskip("triton", reason="requirements/dev_cpu.txt installs it; PyTorch for CUDA brings it")

from twhin_core.model import softmax_kernels as kernels
from twhin_core.model.fused_softmax import METRICS as NUMBERS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 150), st.integers(1, 140), st.sampled_from([8, 20, 64])),
    metric=st.sampled_from(METRICS),
    has_shift=st.booleans(),
    scale=st.floats(0.1, 10.0),
    nodes=st.sampled_from([1, 4, 1000]),
)
def test_values_and_gradients_equal_those_of_the_definition(
    shape: tuple[int, int, int, int], metric: str, has_shift: bool, scale: float, nodes: int
) -> None:
    """`nodes`: ids are drawn from so many; of 1, no candidate counts at all.

    At least 8 dimensions, so that no two points lie so near that float32 loses their distance.
    """
    chunks, length, count, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(DEVICE)

    queries, candidates = drawn(chunks, length, dim).requires_grad_(), drawn(chunks, count, dim).requires_grad_()
    one, other = (torch.randint(nodes, (chunks, of), generator=generator).to(DEVICE) for of in (length, count))
    shift = drawn(chunks, count) if has_shift else None
    found = kernels.LogSumExp.apply(queries, candidates, one, other, shift, scale, METRICS.index(metric))
    gradient = drawn(chunks, length)
    found.backward(gradient)
    exact = [vectors.detach().double().requires_grad_() for vectors in (queries, candidates)]
    expected = in_float64(exact[0], exact[1], (one, other), shift, scale, metric)
    some = expected.isfinite()
    expected.masked_fill(~some, 0.0).backward(gradient.double() * some)
    assert torch.equal(found.isfinite(), some)
    torch.testing.assert_close(found[some].double(), expected[some], rtol=1e-4, atol=1e-3)
    for ours, theirs in zip((queries, candidates), exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-3 * scale)


def test_the_numbers_of_the_metrics_are_those_of_the_kernels() -> None:
    assert (kernels.DOT, kernels.L2, kernels.SQUARED_L2) == (0, 1, 2)
    assert NUMBERS == {"dot": kernels.DOT, "cos": kernels.DOT, "l2": kernels.L2, "squared_l2": kernels.SQUARED_L2}
