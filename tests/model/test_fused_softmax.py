"""The fused loss equals the one with all scores in memory, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels import DEVICE
from tests.model.softmax_losses import in_float64
from twhin_core.model.softmax_function import METRICS, SoftmaxLosses


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 20])),
    metric=st.sampled_from(["dot", "l2", "squared_l2"]),
    has_shift=st.booleans(),
    has_answer_shift=st.booleans(),
    has_extra=st.booleans(),
    scale=st.floats(0.1, 10.0),
    nodes=st.sampled_from([1, 4, 1000]),
)
def test_values_and_gradients_equal_those_of_the_definition(
    shape: tuple[int, int, int, int],
    metric: str,
    has_shift: bool,
    has_answer_shift: bool,
    has_extra: bool,
    scale: float,
    nodes: int,
) -> None:
    """`nodes`: ids are drawn from so many; of 1, no candidate counts at all.

    At least 8 dimensions, so that no two points lie so near that float32 loses their distance.
    """
    chunks, length, count, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(DEVICE)

    vectors = tuple(drawn(chunks, of, dim).requires_grad_() for of in (length, length, count))
    ids = tuple(torch.randint(nodes, (chunks, of), generator=generator).to(DEVICE) for of in (length, count))
    shifts = drawn(chunks, count) if has_shift else None, drawn(chunks, length) if has_answer_shift else None
    for shift in shifts if metric == "dot" else ():  # as those of a learned prior, which needs dot or cos
        if shift is not None:
            shift.requires_grad_()
    extra = None
    if has_extra:
        extra = drawn(chunks, length)
        extra[:, ::3] = -torch.inf
        extra.requires_grad_()
    found = SoftmaxLosses.apply(*vectors, ids, *shifts, extra, scale, METRICS[metric], torch.float32)
    gradient = drawn(chunks, length)
    found.backward(gradient)
    exact = [of.detach().double().requires_grad_() for of in (*vectors, *([] if extra is None else [extra]))]
    wide = [None if of is None else of.detach().double().requires_grad_() for of in shifts]
    expected = in_float64(tuple(exact[:3]), ids, tuple(wide), exact[3] if has_extra else None, scale, metric)  # type: ignore[arg-type]
    expected.backward(gradient.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)
    for ours, theirs in zip((*vectors, *([] if extra is None else [extra])), exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-3 * scale)
    for ours, theirs in zip(shifts, wide, strict=True):
        if ours is not None and theirs is not None and ours.requires_grad:
            assert ours.grad is not None
            assert theirs.grad is not None
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("metric", ["l2", "squared_l2"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_points_that_coincide_do_not_move_each_other(metric: str, scale: float) -> None:
    """The distance has no direction there; of a candidate elsewhere, the gradient is as if it were alone."""
    query = torch.full((1, 1, 8), 3.0, device=DEVICE)
    answer, other = query.clone(), query + torch.eye(8, device=DEVICE)[:1]
    vectors = query.requires_grad_(), answer.requires_grad_(), torch.cat([query.detach(), other], 1).requires_grad_()
    ids = torch.tensor([[0]], device=DEVICE), torch.tensor([[1, 2]], device=DEVICE)
    SoftmaxLosses.apply(*vectors, ids, None, None, None, scale, METRICS[metric], torch.float32).sum().backward()
    # Shares of the answer and its twin are 1 each, that of the other e^-scale; its distance is 1 along the first axis.
    share = math.exp(-scale) / (2 + math.exp(-scale))
    away = scale * share * (1 if metric == "l2" else 2)
    expected = torch.zeros(1, 1, 8)
    expected[..., 0] = away
    torch.testing.assert_close(vectors[0].grad.cpu(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vectors[1].grad.cpu(), torch.zeros(1, 1, 8), rtol=0, atol=1e-4)
    both = torch.cat([torch.zeros(1, 1, 8), -expected], 1)
    torch.testing.assert_close(vectors[2].grad.cpu(), both, rtol=1e-4, atol=1e-4)


def test_a_loss_near_0_keeps_its_precision() -> None:
    """Of a query far nearer to its answer than to its negatives; in float32, 1 + e^-24 is 1."""
    queries = torch.tensor([[[4.0, 0.0, 0.0, 0.0]]], device=DEVICE).expand(1, 1, 4).contiguous()
    answers, candidates = queries * 1.5, torch.zeros(1, 1, 4, device=DEVICE)
    ids = torch.tensor([[0]], device=DEVICE), torch.tensor([[1]], device=DEVICE)
    found = SoftmaxLosses.apply(queries, answers, candidates, ids, None, None, None, 1.0, METRICS["dot"], torch.float32)
    assert float(found) == pytest.approx(3.775134544136e-11, rel=1e-5)  # log1p(e^-24)
