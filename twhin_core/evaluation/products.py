"""Scores as matrix products in blocks of one shape, and how many of them are greater than given ones.

Equal vectors must tie, wherever they stand. So every score, an answer's own too, comes of a product of the same shape:
in it the same instructions in the same order make each element.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]


class Shape(NamedTuple):
    """Queries and candidates of every product."""

    queries: int
    candidates: int


# On a CPU, so that the scores stay in the second-level caches.
LARGEST = {"cpu": Shape(256, 1024), "cuda": Shape(4096, 32_768)}

SUMMED_BYTES = 1024
"""Comparisons that are added up eight at a time, as bytes of words: each byte then counts 128 at most."""


def block_shape(queries: int, candidates: int, device: torch.device) -> Shape:
    """The shape for so many queries and candidates: the fewest blocks, with little to fill up."""
    largest = LARGEST[device.type]
    width = math.ceil(candidates / math.ceil(candidates / largest.candidates))
    return Shape(
        queries=min(largest.queries, _round_up(queries, 16)),
        candidates=_round_up(width, 64 if width <= SUMMED_BYTES else SUMMED_BYTES),
    )


def _round_up(count: int, unit: int) -> int:
    return math.ceil(count / unit) * unit


class Arithmetic:
    """Products on a device, of factors in fp32 or rounded to bf16; sums and scores are fp32 either way."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16

    def factor(self, vectors: Tensor) -> Tensor:
        """Vectors as they are kept to be multiplied."""
        return vectors.to(self.device, self.dtype)

    def product(self, queries: Tensor, candidates: Tensor, out: Tensor) -> None:
        """Inner products of factors [Q, width] and [C, width] → `out` float32 [Q, C]."""
        if self.dtype == torch.float32:
            torch.mm(queries, candidates.T, out=out)
        elif self.device.type == "cuda":
            torch.mm(queries, candidates.T, out_dtype=torch.float32, out=out)
        else:
            # The factors are bf16 numbers already; with this a processor that has instructions for them uses these.
            settings: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 -- torch's stubs do not know it
            before = settings.fp32_precision
            settings.fp32_precision = "bf16"
            try:
                torch.mm(queries.float(), candidates.float().T, out=out)
            finally:
                settings.fp32_precision = before


def count_true(comparisons: Tensor) -> Tensor:
    """How many are true in each row: bool [..., C], C as `block_shape` has it → int64 [...]."""
    words = comparisons.view(torch.int64)
    parts = math.ceil(comparisons.shape[-1] / SUMMED_BYTES)
    sums = words.unflatten(-1, (parts, -1)).sum(-1)
    counts: Tensor = sums.view(torch.uint8).sum(-1)
    return counts
