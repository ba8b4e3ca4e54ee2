# mypy: disable-error-code="no-untyped-def"
"""The softmax loss of queries on a GPU without materializing their scores (Triton kernels).

For a chunk of L queries q that share K candidates v, each score is a function of one inner product:

    dot          x =  scale · ⟨q, v⟩ - shift_k
    squared_l2   x = -scale · |q - v|² - shift_k
    l2           x = -scale · |q - v|  - shift_k

and the loss of a query with the answer a is softplus(log Σ_k e^{x_k} - x_a).

The forward pass walks the candidates block by block, like attention whose keys and values are both the candidates
(Dao et al., 2022, FlashAttention). Next to each query's loss it keeps the derivative of its log-sum-exp less that of
its answer's score, a vector; the backward pass then recomputes the scores once, for the candidates' gradient. Memory is
O((L + K) · dim); sums are float32 and in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

DOT, L2, SQUARED_L2 = 0, 1, 2
LOG2_E = 1.4426950408889634


@triton.jit
def _products(a, b, precision: tl.constexpr):
    return tl.dot(a, tl.trans(b), input_precision=precision)


@triton.jit
def _distance(square, metric: tl.constexpr):
    """The negated distance, from its square, and its derivative by the inner product; of equal points, 0."""
    square = tl.maximum(square, 1e-12)
    if metric == 1:
        score = -tl.sqrt(square)
        slope = tl.where(square > 1e-12, -1.0 / score, 0.0)
    else:
        score = -square
        slope = tl.full(square.shape, 2.0, tl.float32)
    return score, slope


@triton.jit
def _score(product, query_square, candidate_square, metric: tl.constexpr):
    """The unscaled score and its derivative by the inner product."""
    if metric == 0:
        score = product
        slope = tl.full(product.shape, 1.0, tl.float32)
    else:
        score, slope = _distance(query_square + candidate_square - 2.0 * product, metric)
    return score, slope


@triton.jit
def _square(vectors, metric: tl.constexpr):
    """|v|² of each row; unused for the dot product."""
    wide = vectors.to(tl.float32)
    return tl.sum(wide * wide, 1) if metric != 0 else tl.zeros([vectors.shape[0]], tl.float32)


@triton.jit
def _pair(q, a, metric: tl.constexpr):
    """The unscaled score of each row of q with its row of a, and its derivative by their inner product."""
    if metric == 0:
        score = tl.sum(q * a, 1)
        slope = tl.full(score.shape, 1.0, tl.float32)
    else:
        score, slope = _distance(tl.sum((q - a) * (q - a), 1), metric)
    return score, slope


@triton.jit
def forward_kernel(
    queries, answers, candidates, candidate_square, query_id, candidate_id, shift, answer_shift, extra,
    losses, log_sum, negative_share, direction, answer_slope, low_queries,
    scale2, L, K, D,
    metric: tl.constexpr, has_shift: tl.constexpr, has_answer_shift: tl.constexpr, has_extra: tl.constexpr,
    precision: tl.constexpr,
    BL: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, LOG2: tl.constexpr = LOG2_E,
):  # fmt: skip
    chunk = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BL + tl.arange(0, BL)
    column = tl.arange(0, BD)
    in_rows, in_columns = row < L, column < D
    at = chunk * L + row
    q = tl.load(queries + at[:, None] * D + column[None, :], in_rows[:, None] & in_columns[None, :], other=0.0)
    if candidates.dtype.element_ty != tl.float32:
        q = q.to(candidates.dtype.element_ty)
        # The backward pass reads them many times over.
        tl.store(low_queries + at[:, None] * D + column[None, :], q, in_rows[:, None] & in_columns[None, :])
    q_square = _square(q, metric)
    own = tl.load(query_id + at, in_rows, other=-1)
    largest = tl.load(extra + at, in_rows, other=0.0) * LOG2 if has_extra else tl.full([BL], float("-inf"), tl.float32)
    total = tl.where(largest == float("-inf"), 0.0, 1.0)
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
            x -= tl.load(shift + of, in_others, other=0.0)[None, :] * LOG2
        x = tl.where((own[:, None] != v_id[None, :]) & in_others[None, :], x, float("-inf"))
        above = tl.maximum(largest, tl.max(x, 1))
        base = tl.where(above == float("-inf"), 0.0, above)  # -inf - -inf is NaN
        share = tl.exp2(x - base[:, None])
        kept = tl.exp2(largest - base)
        total = total * kept + tl.sum(share, 1)
        if metric != 0:
            share = (share * slope).to(v.dtype).to(tl.float32)  # as the product below sums it, lest they not cancel
            slope_total = slope_total * kept + tl.sum(share, 1)
        weighted = weighted * kept[:, None] + tl.dot(share.to(v.dtype), v, input_precision=precision)
        largest = above
    some = total > 0
    safe = tl.where(some, total, 1.0)
    negatives = tl.where(some, largest + tl.log2(safe), float("-inf"))
    of_row, within = at[:, None] * D + column[None, :], in_rows[:, None] & in_columns[None, :]
    exact = tl.load(queries + of_row, within, other=0.0)
    answer = tl.load(answers + of_row, within, other=0.0)
    score, a_slope = _pair(exact, answer, metric)
    positive = score * scale2
    if has_answer_shift:
        positive -= tl.load(answer_shift + at, in_rows, other=0.0) * LOG2
    ahead = (negatives - positive) / LOG2
    small = tl.exp(-tl.abs(ahead))
    log1p = tl.where(small < 1e-3, small * (1.0 - 0.5 * small), tl.log(1.0 + small))
    tl.store(losses + at, tl.maximum(ahead, 0.0) + log1p, in_rows)
    tl.store(negative_share + at, tl.where(ahead > 0, 1.0, small) / (1.0 + small), in_rows)
    tl.store(log_sum + at, negatives, in_rows)
    moved = weighted / safe[:, None]
    if metric == 0:
        moved -= answer
    else:
        moved -= (slope_total / safe)[:, None] * exact + a_slope[:, None] * (answer - exact)
        tl.store(answer_slope + at, a_slope, in_rows)
    tl.store(direction + of_row, moved, within)


@triton.jit
def backward_kernel(
    queries, candidates, candidate_square, query_id, candidate_id, shift,
    log_sum, gradient, to_candidates, slopes,
    scale2, L, K, D, rows_per_part,
    metric: tl.constexpr, has_shift: tl.constexpr, has_totals: tl.constexpr, precision: tl.constexpr,
    BL: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, LOG2: tl.constexpr = LOG2_E,
):  # fmt: skip
    chunk, part = tl.program_id(1).to(tl.int64), tl.program_id(2)
    other = tl.program_id(0) * BK + tl.arange(0, BK)
    column = tl.arange(0, BD)
    in_others, in_columns = other < K, column < D
    of = chunk * K + other
    v = tl.load(candidates + of[:, None] * D + column[None, :], in_others[:, None] & in_columns[None, :], other=0.0)
    v_id = tl.load(candidate_id + of, in_others, other=-1)
    v_square = tl.load(candidate_square + of, in_others, other=0.0) if metric != 0 else tl.zeros([BK], tl.float32)
    v_shift = tl.load(shift + of, in_others, other=0.0) * LOG2 if has_shift else tl.zeros([BK], tl.float32)
    slope_total = tl.zeros([BK], tl.float32)
    weighted = tl.zeros([BK, BD], tl.float32)
    first = part * rows_per_part
    for start in range(first, tl.minimum(first + rows_per_part, L), BL):
        row = start + tl.arange(0, BL)
        in_rows = row < L
        at = chunk * L + row
        q = tl.load(queries + at[:, None] * D + column[None, :], in_rows[:, None] & in_columns[None, :], other=0.0)
        q = q.to(candidates.dtype.element_ty)
        own = tl.load(query_id + at, in_rows, other=-1)
        q_square = _square(q, metric)
        q_sum = tl.load(log_sum + at, in_rows, other=0.0)
        q_gradient = tl.load(gradient + at, in_rows, other=0.0)
        score, slope = _score(_products(v, q, precision), q_square[None, :], v_square[:, None], metric)
        x = score * scale2 - v_shift[:, None] - q_sum[None, :]
        counts = (own[None, :] != v_id[:, None]) & in_rows[None, :] & in_others[:, None]
        share = tl.where(counts, tl.exp2(x), 0.0) * q_gradient[None, :]
        if metric != 0:
            share = (share * slope).to(q.dtype).to(tl.float32)
        if has_totals:
            slope_total += tl.sum(share, 1)
        weighted += tl.dot(share.to(q.dtype), q, input_precision=precision)
    of = (part.to(tl.int64) * tl.num_programs(1) + chunk) * K + other
    tl.store(to_candidates + of[:, None] * D + column[None, :], weighted, in_others[:, None] & in_columns[None, :])
    if has_totals:
        tl.store(slopes + of, slope_total, in_others)
