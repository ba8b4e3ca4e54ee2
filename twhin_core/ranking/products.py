"""Scores as matrix products of queries and candidates, block by block.

Equal vectors must tie wherever they are. All scores, an answer's own included, therefore come from products of one
shape, which compute every element by the same instructions in the same order.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from twhin_core.errors import UserError
from twhin_core.ranking.staging import even_blocks, staged_blocks
from twhin_core.vectors.rows import Rows

NOT_FINITE = "scores are not finite: the model diverged; lower its learning rates"

READ_BYTES = 16 << 20
"""About this much of a streamed table is read at once."""

Precision = Literal["fp32", "bf16"]


class Shape(NamedTuple):
    """Queries and candidates of every product."""

    queries: int
    candidates: int


# On a CPU, scores then stay in the second-level caches.
LARGEST = {"cpu": Shape(256, 1024), "cuda": Shape(4096, 32_768)}

SUMMED_BYTES = 1024
"""`count_true` adds up comparisons eight at a time, as the bytes of words; a byte then counts at most 128."""


def block_shape(queries: int, candidates: int, device: torch.device) -> Shape:
    """The shape that gives the fewest blocks with the least padding."""
    largest = LARGEST[device.type]
    width = even_blocks(candidates, largest.candidates, 64)
    return Shape(
        queries=min(largest.queries, math.ceil(queries / 16) * 16),
        candidates=width if width <= SUMMED_BYTES else even_blocks(candidates, largest.candidates, SUMMED_BYTES),
    )


class Arithmetic:
    """Products on a device, of factors in fp32 or rounded to bf16; sums and scores are fp32 in both cases."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16

    def factor(self, vectors: Tensor) -> Tensor:
        """Vectors as factors: on the device, in its dtype."""
        return vectors.to(self.device, self.dtype)

    def product(self, queries: Tensor, candidates: Tensor, out: Tensor) -> None:
        """Inner products of factors [Q, width] and [C, width] → `out` float32 [Q, C]."""
        if self.dtype == torch.float32:
            torch.mm(queries, candidates.T, out=out)
        elif self.device.type == "cuda":
            torch.mm(queries, candidates.T, out_dtype=torch.float32, out=out)
        else:
            torch.mm(queries.float(), candidates.float().T, out=out)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Lets a CPU use bf16 instructions in `product`, if it has any; in all threads."""
        if self.dtype == torch.float32 or self.device.type == "cuda":
            yield
            return
        settings: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 -- torch's stubs do not know it
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"  # exact: the factors are bf16 numbers already
        try:
            yield
        finally:
            settings.fp32_precision = before


def count_true(comparisons: Tensor) -> Tensor:
    """How many are true in each row: bool [..., C], with C from `block_shape` → int64 [...]."""
    words = comparisons.view(torch.int64)
    parts = math.ceil(comparisons.shape[-1] / SUMMED_BYTES)
    sums = words.unflatten(-1, (parts, -1)).sum(-1)
    counts: Tensor = sums.view(torch.uint8).sum(-1)
    return counts


class Candidates:
    """Rows of a table as factors: kept if they fit into `memory` bytes, else read again for each pass."""

    def __init__(
        self, rows: Rows, project: Callable[[Tensor], Tensor] | None, arithmetic: Arithmetic, shape: Shape, memory: int
    ) -> None:
        """`project`: [C, dim] → [C, width], on the device of `arithmetic`; None if rows are their own projections."""
        self.size, self.shape, self.arithmetic = rows.size, shape, arithmetic
        self._rows, self._project = rows, project
        row_bytes = rows.dim * arithmetic.dtype.itemsize
        self._keeps = (rows.size + shape.candidates) * row_bytes <= memory
        self._kept: list[Tensor] | None = None
        block_bytes = min(READ_BYTES, memory // 4) // (rows.dim * 4)  # streaming holds three blocks
        most = max(1, block_bytes // shape.candidates) * shape.candidates
        self._block_rows = even_blocks(rows.size, most, shape.candidates)
        self._are_finite = torch.ones((), dtype=torch.bool, device=arithmetic.device)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, factor [C, width]) of all candidates in order; the last block is padded with zeros.

        Raises:
            UserError: a number is not finite; after all blocks.
        """
        if self._kept is not None:
            for number, block in enumerate(self._kept):
                yield number * self.shape.candidates, block
            return
        kept = []
        # A projection needs the vectors as they are; without one they can be rounded before they are copied.
        dtype = self.arithmetic.dtype if self._project is None else torch.float32
        for first, vectors in staged_blocks(self._rows, self._block_rows, self.arithmetic.device, dtype):
            for start in range(0, len(vectors), self.shape.candidates):
                block = self.factor(vectors[start : start + self.shape.candidates])
                if self._keeps:
                    kept.append(block)
                yield first + start, block
        self.check()
        if self._keeps:
            self._kept = kept

    def factor(self, vectors: Tensor) -> Tensor:
        """At most C rows [n, dim] → [C, width], padded with zeros; `check` tells whether all numbers were finite."""
        vectors = vectors.to(self.arithmetic.device)
        self._are_finite &= torch.isfinite(vectors).all()
        padded = torch.nn.functional.pad(vectors, (0, 0, 0, self.shape.candidates - len(vectors)))
        return self.arithmetic.factor(padded if self._project is None else self._project(padded))

    def check(self) -> None:
        """Raises UserError if a factor had a number that is not finite. Waits for the GPU, so not called per block."""
        if not bool(self._are_finite):
            raise UserError(NOT_FINITE)
