"""The nodes that queries can have for answers: their vectors, projected, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twhin_core.config import Model
from twhin_core.errors import UserError
from twhin_core.evaluation.products import Arithmetic, Shape
from twhin_core.evaluation.queries import Ints, Queries
from twhin_core.model.scorer import relations_share_candidates
from twhin_core.schema import Schema, Side
from twhin_core.vectors.rows import Rows, blocks

READ_BYTES = 16 << 20
"""A streamed table is read by about as much at once."""


@dataclass(frozen=True)
class CandidateSet:
    """Relations whose queries for `side` have the same candidates, projected alike; they are ranked together."""

    side: Side
    table: str
    relations: Ints
    size: int
    """N, the number of candidates."""
    drawn: Ints | None = None
    """[N] the rows of the candidates, ascending, a row perhaps more than once; None where they are all rows."""

    def columns(self, answers: Ints) -> tuple[Ints, Ints]:
        """Where nodes are among the candidates: (number of the candidate, index of `answers`) wherever one is."""
        if self.drawn is None:
            return answers, np.arange(len(answers))
        first, last = (np.searchsorted(self.drawn, answers, side=end) for end in ("left", "right"))
        times = last - first
        index = np.repeat(np.arange(len(answers)), times)
        before = np.cumsum(times) - times
        return first[index] + np.arange(len(index)) - before[index], index

    def rivals(self, queries: Queries) -> Ints:
        """[Q] how many candidates are not known answers of each query."""
        _, answer = self.columns(queries.answer)
        return self.size - np.bincount(queries.query[answer], minlength=len(queries))

    def rows(self, table: Rows) -> Rows:
        """The candidates' vectors, of those of the table."""
        return _FirstRows(table, self.size) if self.drawn is None else _DrawnRows(table, self.drawn)


def candidate_sets(models: Sequence[Model], schema: Schema, side: Side) -> list[CandidateSet]:
    """All relations: those that have a table on `side` together if they share candidates in all models, else apart."""
    together = all(relations_share_candidates(model, side) for model in models)
    groups: dict[tuple[str, int], list[int]] = {}
    for rel in range(len(schema.relations)):
        groups.setdefault((schema.table_of(rel, side), 0 if together else rel), []).append(rel)
    return [
        CandidateSet(side, table, np.array(rels, np.int64), schema.tables[table]) for (table, _), rels in groups.items()
    ]


class _FirstRows:
    """A table less its last rows, which are no nodes."""

    def __init__(self, rows: Rows, size: int) -> None:
        self._rows, self.size, self.dim = rows, size, rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._rows.read(start, stop)

    def gather(self, rows: Ints) -> Tensor:
        return self._rows.gather(rows)


class _DrawnRows:
    """Some rows of a table."""

    def __init__(self, rows: Rows, drawn: Ints) -> None:
        self._rows, self._drawn, self.size, self.dim = rows, drawn, len(drawn), rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._rows.gather(self._drawn[start:stop])

    def gather(self, rows: Ints) -> Tensor:
        return self._rows.gather(self._drawn[rows])


class Candidates:
    """Rows of a table as factors of products: read anew each time, or kept where they fit into `memory` bytes."""

    def __init__(
        self, rows: Rows, project: Callable[[Tensor], Tensor], arithmetic: Arithmetic, shape: Shape, memory: int
    ) -> None:
        """`project`: [C, dim] → [C, width]."""
        self.size, self.shape = rows.size, shape
        self._rows, self._project, self._arithmetic = rows, project, arithmetic
        bytes_a_row = rows.dim * arithmetic.dtype.itemsize
        self._keeps = (rows.size + shape.candidates) * bytes_a_row <= memory
        self._kept: list[Tensor] | None = None
        block_bytes = min(READ_BYTES, memory // 4) // (rows.dim * 4)  # three of them are held when they are streamed
        self._block_rows = max(1, block_bytes // shape.candidates) * shape.candidates

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, factor [C, width]) of all candidates in order; the last is filled up with noughts."""
        if self._kept is not None:
            for number, block in enumerate(self._kept):
                yield number * self.shape.candidates, block
            return
        kept = []
        for first, vectors in blocks(self._rows, self._block_rows):
            for start in range(0, len(vectors), self.shape.candidates):
                block = self.factor(vectors[start : start + self.shape.candidates])
                if self._keeps:
                    kept.append(block)
                yield first + start, block
        if self._keeps:
            self._kept = kept

    def factor(self, vectors: Tensor) -> Tensor:
        """At most C rows [n, dim] → [C, width], filled up with noughts.

        Raises:
            UserError: a number is not finite.
        """
        if not torch.isfinite(vectors).all():
            raise UserError("scores are not finite: the model diverged; lower its learning rates")
        filled = torch.nn.functional.pad(vectors, (0, 0, 0, self.shape.candidates - len(vectors)))
        return self._arithmetic.factor(self._project(filled))
