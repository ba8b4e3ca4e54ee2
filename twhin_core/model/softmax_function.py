"""The softmax loss as an autograd function: its kernels' arguments, block sizes and launches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from twhin_core.model.softmax_kernels import DOT, L2, LOG2_E, SQUARED_L2, backward_kernel, forward_kernel

METRICS = {"dot": DOT, "cos": DOT, "l2": L2, "squared_l2": SQUARED_L2}
"""The number by which the kernels know each comparator; the cosine is the dot product of unit vectors."""


class Blocks(NamedTuple):
    """How a kernel is tiled: queries and candidates per block, warps, and pipeline stages."""

    queries: int
    candidates: int
    warps: int
    stages: int


def forward_blocks(dim: int, dtype: torch.dtype) -> Blocks:
    if dtype == torch.float32:
        return Blocks(64, 32, 4, 2) if dim <= 128 else Blocks(32, 32, 4, 1)
    return Blocks(128, 128, 8, 3) if dim <= 64 else Blocks(64, 64, 4, 3) if dim <= 128 else Blocks(64, 64, 8, 2)


def backward_blocks(dim: int, dtype: torch.dtype) -> Blocks:
    if dtype == torch.float32:
        return Blocks(32, 64, 4, 2) if dim <= 128 else Blocks(32, 32, 4, 1)
    return Blocks(128, 128, 8, 3) if dim <= 64 else Blocks(64, 64, 4, 3) if dim <= 128 else Blocks(64, 64, 8, 2)


class SoftmaxLosses(torch.autograd.Function):
    """The softmax loss of each query, whose negatives are the candidates of its chunk that are not its answer.

    A query without negatives has the loss 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        answers: Tensor,
        candidates: Tensor,
        ids: tuple[Tensor, Tensor],
        shift: Tensor | None,
        answer_shift: Tensor | None,
        extra: Tensor | None,
        scale: float,
        metric: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """
        Args:
            queries: float32 [C, L, dim], contiguous.
            answers: float32 [C, L, dim], contiguous.
            candidates: float32 [C, K, dim].
            ids: int64, of the answers [C, L] and the candidates [C, K]; equal ones are masked.
            shift: float32 [C, K], subtracted from each candidate's scores; gets a gradient only with METRICS["dot"].
            answer_shift: float32 [C, L], subtracted from the answers' scores.
            extra: float32 [C, L], the score of one more negative per query, already scaled; -inf for none.
            scale: multiplies the unshifted scores.
            metric: one of the values of `METRICS`.
            dtype: of the products with the candidates, float32 or bfloat16.

        Returns:
            float32 [C, L].
        """
        chunks, length, dim = queries.shape
        low = candidates.to(dtype).contiguous()
        losses, log_sum, share, slope = (torch.empty_like(queries[..., 0]) for _ in range(4))
        direction, squares = torch.empty_like(queries), _squares(low, metric)
        low_queries = queries if dtype == queries.dtype else torch.empty_like(queries, dtype=dtype)
        ids = ids[0].contiguous(), ids[1].contiguous()
        blocks = forward_blocks(dim, dtype)
        forward_kernel[(triton.cdiv(length, blocks.queries), chunks)](
            queries, answers, low, squares, *ids, *(_given(of, losses) for of in (shift, answer_shift, extra)),
            losses, log_sum, share, direction, slope, low_queries,
            scale * LOG2_E, length, low.shape[1], dim,
            metric=metric, has_shift=shift is not None, has_answer_shift=answer_shift is not None,
            has_extra=extra is not None, precision=_precision(dtype),
            BL=blocks.queries, BK=blocks.candidates, BD=max(16, triton.next_power_of_2(dim)),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        of_scores = low_queries, low, squares, *ids, shift, extra, log_sum
        ctx.save_for_backward(*of_scores, queries, answers, share, direction, slope)
        ctx.settings = scale, metric
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        low_queries, low, squares, one, other, shift, extra, log_sum, *rest = ctx.saved_tensors
        queries, answers, share, direction, slope = rest
        scale, metric = ctx.settings
        by_negatives = gradient * share
        weight = by_negatives * scale
        if metric == DOT:
            to_answers = queries * -weight[..., None]
        else:
            to_answers = (answers - queries) * (weight * slope)[..., None]
        to_extra = None if extra is None else by_negatives * torch.exp(extra - log_sum / LOG2_E).nan_to_num()
        (chunks, length, dim), count = queries.shape, low.shape[1]
        blocks = backward_blocks(dim, low.dtype)
        across = triton.cdiv(count, blocks.candidates)
        parts, rows_per_part = _split(chunks * across, length, blocks.queries, queries.device)
        to_candidates = queries.new_empty(parts, chunks, count, dim)
        has_totals = metric != DOT or ctx.needs_input_grad[4]
        totals = queries.new_empty(parts, chunks, count) if has_totals else to_candidates
        backward_kernel[(across, chunks, parts)](
            low_queries, low, squares, one, other, _given(shift, log_sum), log_sum, weight, to_candidates, totals,
            scale * LOG2_E, length, count, dim, rows_per_part,
            metric=metric, has_shift=shift is not None, has_totals=has_totals, precision=_precision(low.dtype),
            BL=blocks.queries, BK=blocks.candidates, BD=max(16, triton.next_power_of_2(dim)),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        summed = to_candidates.sum(0) if parts > 1 else to_candidates[0]
        if metric != DOT:
            summed = summed - totals.sum(0)[..., None] * low
        to_shift = None
        if ctx.needs_input_grad[4]:
            assert metric == DOT
            to_shift = totals.sum(0) / -scale
        to_answer_shift = by_negatives if ctx.needs_input_grad[5] else None
        to_queries = direction * weight[..., None]
        return to_queries, to_answers, summed, None, to_shift, to_answer_shift, to_extra, None, None, None


def _given(value: Tensor | None, otherwise: Tensor) -> Tensor:
    """An argument that a kernel does not read where it is None."""
    return otherwise if value is None else value.contiguous()


def _squares(vectors: Tensor, metric: int) -> Tensor:
    """|v|² as float32 [C, X]; for the dot product, an unused tensor."""
    return vectors if metric == DOT else vectors.float().square().sum(-1)


def _precision(dtype: torch.dtype) -> str:
    """Triton's input precision, which matters for float32 only."""
    return "tf32" if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest" else "ieee"


def _split(blocks: int, length: int, block: int, device: torch.device) -> tuple[int, int]:
    """The number of parts to split the queries into so that all multiprocessors work, and the rows of each."""
    if device.type != "cuda":
        wanted = 2
    else:
        wanted = triton.cdiv(2 * torch.cuda.get_device_properties(device).multi_processor_count, blocks)
    rows = triton.cdiv(triton.cdiv(length, max(wanted, 1)), block) * block
    return triton.cdiv(length, rows), rows
