# mypy: disable-error-code="no-untyped-def"
"""Log-sum-exp of scores on a GPU without materializing the scores (Triton kernels).

For a chunk of L queries q that share K candidates v, each score is a function of one inner product:

    dot          x =  scale · ⟨q, v⟩ - shift_k
    squared_l2   x = -scale · |q - v|² - shift_k
    l2           x = -scale · |q - v|  - shift_k

The forward pass walks the candidates block by block, like attention whose keys and values are both the candidates
(Dao et al., 2022, FlashAttention). Next to each query's log-sum-exp it keeps the softmax-weighted sum of candidates,
which is the query's gradient; the backward pass then recomputes the scores once, for the candidates' gradient. Memory
is O((L + K) · dim); sums are float32 and in a fixed order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

DOT, L2, SQUARED_L2 = 0, 1, 2
LOG2_E = 1.4426950408889634


class Blocks(NamedTuple):
    """How a kernel is tiled: queries and candidates per block, warps, and pipeline stages."""

    queries: int
    candidates: int
    warps: int
    stages: int


@triton.jit
def _products(a, b, precision: tl.constexpr):
    return tl.dot(a, tl.trans(b), input_precision=precision)


@triton.jit
def _score(product, query_square, candidate_square, metric: tl.constexpr):
    """The unscaled score and its derivative by the inner product."""
    if metric == 0:
        score = product
        slope = tl.full(product.shape, 1.0, tl.float32)
    else:
        square = tl.maximum(query_square + candidate_square - 2.0 * product, 1e-12)
        if metric == 1:
            score = -tl.sqrt(square)
            slope = -1.0 / score
        else:
            score = -square
            slope = tl.full(product.shape, 2.0, tl.float32)
    return score, slope


@triton.jit
def _forward(
    queries, candidates, query_square, candidate_square, query_id, candidate_id, shift,
    log_sum, moved, slopes,
    scale2, L, K, D,
    metric: tl.constexpr, has_shift: tl.constexpr, precision: tl.constexpr,
    BL: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BL + tl.arange(0, BL)
    column = tl.arange(0, BD)
    in_rows, in_columns = row < L, column < D
    at = chunk * L + row
    q = tl.load(queries + at[:, None] * D + column[None, :], in_rows[:, None] & in_columns[None, :], other=0.0)
    own = tl.load(query_id + at, in_rows, other=-1)
    q_square = tl.load(query_square + at, in_rows, other=0.0) if metric != 0 else tl.zeros([BL], tl.float32)
    largest = tl.full([BL], float("-inf"), tl.float32)
    total = tl.zeros([BL], tl.float32)
    slope_total = tl.zeros([BL], tl.float32)
    weighted = tl.zeros([BL, BD], tl.float32)
    for start in range(0, K, BK):
        other = start + tl.arange(0, BK)
        in_others = other < K
        of = chunk * K + other
        v = tl.load(candidates + of[:, None] * D + column[None, :], in_others[:, None] & in_columns[None, :], other=0.0)
        v_id = tl.load(candidate_id + of, in_others, other=-1)
        v_square = tl.load(candidate_square + of, in_others, other=0.0) if metric != 0 else tl.zeros([BK], tl.float32)
        score, slope = _score(_products(q, v, precision), q_square[:, None], v_square[None, :], metric)
        x = score * scale2
        if has_shift:
            x -= tl.load(shift + of, in_others, other=0.0)[None, :]
        x = tl.where((own[:, None] != v_id[None, :]) & in_others[None, :], x, float("-inf"))
        above = tl.maximum(largest, tl.max(x, 1))
        base = tl.where(above == float("-inf"), 0.0, above)  # -inf - -inf is NaN
        share = tl.exp2(x - base[:, None])
        kept = tl.exp2(largest - base)
        total = total * kept + tl.sum(share, 1)
        if metric != 0:
            share = share * slope
            slope_total = slope_total * kept + tl.sum(share, 1)
        weighted = weighted * kept[:, None] + tl.dot(share.to(v.dtype), v, input_precision=precision)
        largest = above
    some = total > 0
    safe = tl.where(some, total, 1.0)
    tl.store(log_sum + at, tl.where(some, largest + tl.log2(safe), float("-inf")), in_rows)
    tl.store(
        moved + at[:, None] * D + column[None, :], weighted / safe[:, None], in_rows[:, None] & in_columns[None, :]
    )
    if metric != 0:
        tl.store(slopes + at, slope_total / safe, in_rows)


@triton.jit
def _backward(
    queries, candidates, query_square, candidate_square, query_id, candidate_id, shift,
    log_sum, gradient, to_candidates, slopes,
    scale2, L, K, D, rows_per_part,
    metric: tl.constexpr, has_shift: tl.constexpr, precision: tl.constexpr,
    BL: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    chunk, part = tl.program_id(1).to(tl.int64), tl.program_id(2)
    other = tl.program_id(0) * BK + tl.arange(0, BK)
    column = tl.arange(0, BD)
    in_others, in_columns = other < K, column < D
    of = chunk * K + other
    v = tl.load(candidates + of[:, None] * D + column[None, :], in_others[:, None] & in_columns[None, :], other=0.0)
    v_id = tl.load(candidate_id + of, in_others, other=-1)
    v_square = tl.load(candidate_square + of, in_others, other=0.0) if metric != 0 else tl.zeros([BK], tl.float32)
    v_shift = tl.load(shift + of, in_others, other=0.0) if has_shift else tl.zeros([BK], tl.float32)
    slope_total = tl.zeros([BK], tl.float32)
    weighted = tl.zeros([BK, BD], tl.float32)
    first = part * rows_per_part
    for start in range(first, tl.minimum(first + rows_per_part, L), BL):
        row = start + tl.arange(0, BL)
        in_rows = row < L
        at = chunk * L + row
        q = tl.load(queries + at[:, None] * D + column[None, :], in_rows[:, None] & in_columns[None, :], other=0.0)
        own = tl.load(query_id + at, in_rows, other=-1)
        q_square = tl.load(query_square + at, in_rows, other=0.0) if metric != 0 else tl.zeros([BL], tl.float32)
        q_sum = tl.load(log_sum + at, in_rows, other=0.0)
        q_gradient = tl.load(gradient + at, in_rows, other=0.0)
        score, slope = _score(_products(v, q, precision), q_square[None, :], v_square[:, None], metric)
        x = score * scale2 - v_shift[:, None] - q_sum[None, :]
        counts = (own[None, :] != v_id[:, None]) & in_rows[None, :] & in_others[:, None]
        share = tl.where(counts, tl.exp2(x), 0.0) * q_gradient[None, :]
        if metric != 0:
            share = share * slope
            slope_total += tl.sum(share, 1)
        weighted += tl.dot(share.to(q.dtype), q, input_precision=precision)
    of = (part.to(tl.int64) * tl.num_programs(1) + chunk) * K + other
    tl.store(to_candidates + of[:, None] * D + column[None, :], weighted, in_others[:, None] & in_columns[None, :])
    if metric != 0:
        tl.store(slopes + of, slope_total, in_others)


def forward_blocks(dim: int, dtype: torch.dtype) -> Blocks:
    if dtype == torch.float32:
        return Blocks(64, 32, 4, 2) if dim <= 128 else Blocks(32, 32, 4, 1)
    return Blocks(128, 128, 8, 3) if dim <= 64 else Blocks(128, 64, 8, 3) if dim <= 128 else Blocks(64, 64, 8, 2)


def backward_blocks(dim: int, dtype: torch.dtype) -> Blocks:
    if dtype == torch.float32:
        return Blocks(32, 64, 4, 2) if dim <= 128 else Blocks(32, 32, 4, 1)
    return Blocks(128, 128, 8, 3) if dim <= 64 else Blocks(64, 128, 8, 3) if dim <= 128 else Blocks(64, 64, 8, 2)


class LogSumExp(torch.autograd.Function):
    """log Σ_k e^{x_lk} over the candidates of each chunk that are not the query's answer; -inf if none are left."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        candidates: Tensor,
        query_id: Tensor,
        candidate_id: Tensor,
        shift: Tensor | None,
        scale: float,
        metric: int,
    ) -> Tensor:
        """
        Args:
            queries: [C, L, dim], float32 or bfloat16, contiguous.
            candidates: [C, K, dim] of the same type, contiguous.
            query_id: int64 [C, L], of the answers; candidates with the same id are masked.
            candidate_id: int64 [C, K].
            shift: float32 [C, K], subtracted from each candidate's scores; gets no gradient.
            scale: multiplies the unshifted scores.
            metric: `DOT`, `L2` or `SQUARED_L2`.

        Returns:
            float32 [C, L].
        """
        chunks, length, dim = queries.shape
        count = candidates.shape[1]
        log_sum = queries.new_empty(chunks, length, dtype=torch.float32)
        moved = queries.new_empty(queries.shape, dtype=torch.float32)
        slopes = torch.empty_like(log_sum) if metric != DOT else log_sum
        squares = _squares(queries, metric), _squares(candidates, metric)
        ids = query_id.contiguous(), candidate_id.contiguous()
        shift2 = log_sum if shift is None else (shift * LOG2_E).contiguous()
        blocks = forward_blocks(dim, queries.dtype)
        _forward[(triton.cdiv(length, blocks.queries), chunks)](
            queries, candidates, *squares, *ids, shift2, log_sum, moved, slopes,
            scale * LOG2_E, length, count, dim,
            metric=metric, has_shift=shift is not None, precision=_precision(queries.dtype),
            BL=blocks.queries, BK=blocks.candidates, BD=max(16, triton.next_power_of_2(dim)),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        ctx.save_for_backward(queries, candidates, *squares, *ids, shift2, log_sum, moved, slopes)
        ctx.settings = scale, metric, shift is not None
        return log_sum / LOG2_E

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, candidates, *inputs, log_sum, moved, slopes = ctx.saved_tensors
        scale, metric, has_shift = ctx.settings
        (chunks, length, dim), count = queries.shape, candidates.shape[1]
        weight = gradient.contiguous().float() * scale
        to_queries = moved if metric == DOT else moved - slopes[..., None] * queries
        to_queries = (to_queries * weight[..., None]).to(queries.dtype)
        blocks = backward_blocks(dim, queries.dtype)
        across = triton.cdiv(count, blocks.candidates)
        parts, rows_per_part = _split(chunks * across, length, blocks.queries, queries.device)
        to_candidates = queries.new_empty(parts, chunks, count, dim, dtype=torch.float32)
        totals = queries.new_empty(parts, chunks, count, dtype=torch.float32) if metric != DOT else to_candidates
        _backward[(across, chunks, parts)](
            queries, candidates, *inputs, log_sum, weight, to_candidates, totals,
            scale * LOG2_E, length, count, dim, rows_per_part,
            metric=metric, has_shift=has_shift, precision=_precision(queries.dtype),
            BL=blocks.queries, BK=blocks.candidates, BD=max(16, triton.next_power_of_2(dim)),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        summed = to_candidates.sum(0) if parts > 1 else to_candidates[0]
        if metric != DOT:
            summed = summed - totals.sum(0)[..., None] * candidates
        return to_queries, summed.to(candidates.dtype), None, None, None, None, None


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
