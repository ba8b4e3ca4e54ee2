# mypy: disable-error-code="no-untyped-def"
"""Updates the rows of a table on a GPU from gradients that may repeat rows (a Triton kernel).

The gradients' row numbers are sorted first, so that those of a row follow each other. Each program starts at one of
them; the program at the first of a row adds up the row's gradients, in a fixed order, and updates row and optimizer
state. The number of distinct rows therefore never has to be known on the host.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from twhin_core.training.row_optimizer import positive_eps

KINDS = ("sgd", "adagrad", "rowwise_adagrad", "adam", "spherical_adagrad")
"""The optimizers, by the kernel's number for each."""

MOST_PIECES = 7
"""The most tensors of rows: three for each side of the edges, and explicit negatives."""

MOST_SHARED = 2
"""The most of them that have two gradients."""

GRADIENTS_AT_ONCE = 4


@triton.jit
def _at(piece, begin, position, D, column):
    """Pointers to the gradients at `position`, counted from a piece's first one at `begin`."""
    return piece + (position - begin)[:, None] * D + column[None, :]


@triton.jit
def _update(
    sorted_rows, order, p0, p1, p2, p3, p4, p5, p6, s0, s1, e0, e1, e2, e3, e4, e5, shared_end,
    weight, first_state, second_state, rates, eps, beta1, beta2, count, D,
    kind: tl.constexpr, pieces: tl.constexpr, shared: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0)
    row = tl.load(sorted_rows + start)
    before = tl.load(sorted_rows + tl.maximum(start - 1, 0))
    if (start == 0) | (before != row):
        column = tl.arange(0, BD)
        in_columns = column < D
        gradient = tl.zeros([BD], tl.float32)
        first = start
        found = tl.full([], BN, tl.int32)
        while found == BN:
            at = first + tl.arange(0, BN)
            is_of_row = tl.load(sorted_rows + at, at < count, other=-1) == row
            position = tl.load(order + at, is_of_row, other=0)
            pointer = _at(p0, 0, position, D, column)
            if pieces > 1:
                pointer = tl.where((position < e0)[:, None], pointer, _at(p1, e0, position, D, column))
            if pieces > 2:
                pointer = tl.where((position < e1)[:, None], pointer, _at(p2, e1, position, D, column))
            if pieces > 3:
                pointer = tl.where((position < e2)[:, None], pointer, _at(p3, e2, position, D, column))
            if pieces > 4:
                pointer = tl.where((position < e3)[:, None], pointer, _at(p4, e3, position, D, column))
            if pieces > 5:
                pointer = tl.where((position < e4)[:, None], pointer, _at(p5, e4, position, D, column))
            if pieces > 6:
                pointer = tl.where((position < e5)[:, None], pointer, _at(p6, e5, position, D, column))
            values = tl.load(pointer, is_of_row[:, None] & in_columns[None, :], other=0.0)
            if shared > 0:
                pointer = _at(s0, 0, position, D, column)
                if shared > 1:
                    pointer = tl.where((position < e0)[:, None], pointer, _at(s1, e0, position, D, column))
                has_second = is_of_row & (position < shared_end)
                values += tl.load(pointer, has_second[:, None] & in_columns[None, :], other=0.0)
            gradient += tl.sum(values, 0)
            found = tl.sum(is_of_row.to(tl.int32), 0)
            first += BN
        of = row.to(tl.int64) * D + column
        value = tl.load(weight + of, in_columns, other=0.0)
        lr = tl.load(rates)
        if kind == 0:
            step = gradient
        elif kind == 1:
            total = tl.load(first_state + of, in_columns, other=0.0) + gradient * gradient
            tl.store(first_state + of, total, in_columns)
            step = gradient / (tl.sqrt(total) + eps)
        elif kind == 2:
            total = tl.load(first_state + row) + tl.sum(gradient * gradient, 0) / D
            tl.store(first_state + row, total)
            step = gradient / (tl.sqrt(total) + eps)
        elif kind == 4:
            tangent = gradient - tl.sum(gradient * value, 0) * value
            total = tl.load(first_state + row) + tl.sum(tangent * tangent, 0)
            tl.store(first_state + row, total)
            step = tangent / (tl.sqrt(total) + eps)
        else:
            mean = tl.load(first_state + of, in_columns, other=0.0)
            square = tl.load(second_state + of, in_columns, other=0.0)
            mean += (gradient - mean) * (1.0 - beta1)
            square += (gradient * gradient - square) * (1.0 - beta2)
            tl.store(first_state + of, mean, in_columns)
            tl.store(second_state + of, square, in_columns)
            step = (mean / tl.load(rates + 1)) / (tl.sqrt(square / tl.load(rates + 2)) + eps)
        value -= lr * step
        if kind == 4:
            value /= tl.sqrt(tl.sum(value * value, 0))
        tl.store(weight + of, value, in_columns)


def update_rows(
    kind: str,
    gradients: Sequence[tuple[Tensor, Sequence[Tensor]]],
    weight: Tensor,
    state: Sequence[Tensor],
    rates: Tensor,
    eps: float = 0.0,
    betas: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Updates weight and state in place, without waiting for the device. docs/numerics.md has the formulas.

    Args:
        kind: one of `KINDS`.
        gradients: rows, int64 [n], and their gradients, one tensor float32 [n, dim] or two to be added; at most
            `MOST_PIECES` entries, at most `MOST_SHARED` of them with two. Rows may be repeated.
        weight: float32 [R, dim].
        state: float32, of the optimizer: [R, dim] or, for `rowwise_adagrad` and `spherical_adagrad`, [R].
        rates: float32 [3] on the device: the learning rate, 1 - beta1^step and 1 - beta2^step.
    """
    ordered = sorted(gradients, key=lambda entry: -len(entry[1]))
    pieces = [of[0].contiguous() for _, of in ordered]
    seconds = [of[1].contiguous() for _, of in ordered if len(of) > 1]
    assert len(pieces) <= MOST_PIECES
    assert len(seconds) <= MOST_SHARED
    ends = list(itertools.accumulate(map(len, pieces)))
    rows = torch.cat([rows for rows, _ in ordered])
    if len(weight) < 2**31:
        rows = rows.int()  # sorts in half the time
    sorted_rows, order = rows.sort(stable=True)
    missing, first_state, second_state = MOST_PIECES - len(pieces), *[*state, weight, weight][:2]
    count, dim = len(rows), weight.shape[1]
    _update[(count,)](
        sorted_rows, order, *pieces, *pieces[:1] * missing, *seconds, *pieces[:1] * (MOST_SHARED - len(seconds)),
        *[*ends, *[0] * missing][:-1], ends[len(seconds) - 1] if seconds else 0,
        weight, first_state, second_state, rates, positive_eps(eps), *betas, count, dim,
        kind=KINDS.index(kind), pieces=len(pieces), shared=len(seconds), BN=GRADIENTS_AT_ONCE,
        BD=triton.next_power_of_2(dim), num_warps=1,
    )  # fmt: skip
