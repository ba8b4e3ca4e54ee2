# mypy: disable-error-code="no-untyped-def"
"""A Triton kernel that counts the scores above those of answers, reading each score once per answer."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

SCORES_AT_ONCE = 2048


@triton.jit
def _count(scores, row, own, above, width, BW: tl.constexpr):
    answer = tl.program_id(0)
    line = scores + tl.load(row + answer) * width
    score = tl.load(own + answer)
    found = tl.zeros([BW], tl.int32)
    for start in range(0, width, BW):
        column = start + tl.arange(0, BW)
        others = tl.load(line + column, column < width, other=float("nan"))
        found += (others > score).to(tl.int32) + (others >= score).to(tl.int32)
    tl.store(above + answer, tl.load(above + answer) + tl.sum(found, 0))


def count_above(scores: Tensor, row: Tensor, own: Tensor, above: Tensor) -> None:
    """Adds to `above`, for each answer, twice the scores of its row that are greater plus those that are equal.

    Args:
        scores: float32 [Q, C], contiguous; nan is neither greater nor equal.
        row: int64 [A], the row of each answer.
        own: float32 [A], its score.
        above: int64 [A].
    """
    if len(row):
        _count[(len(row),)](scores, row, own, above, scores.shape[1], BW=SCORES_AT_ONCE, num_warps=8)
