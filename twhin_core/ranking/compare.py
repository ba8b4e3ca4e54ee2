"""Exact filtered ranks of held-out answers, with the candidates read block by block.

Each query is scored once with each candidate, in products of one shape (`products.py`), and its held-out answers are
compared with a block of scores while the block is in the processor's cache. Scores of known answers are first set to
nan, which compares as neither greater nor equal. Nothing is sorted and no scores are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.errors import UserError
from twhin_core.model.fused_softmax import has_triton
from twhin_core.progress import Progress
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.products import NOT_FINITE, Candidates, count_true
from twhin_core.ranking.queries import FilteredQueries, Ints
from twhin_core.ranking.ranks import AnswerRanks, list_ranks
from twhin_core.vectors.rows import Rows

GATHERED = 16_384
"""Vectors of answers that are read at once."""
LAYERS = 32
"""The first 32 answers of each query are compared together with those of other queries, the rest query by query."""


@torch.inference_mode()
def rank(
    queries: FilteredQueries,
    vectors: Tensor,
    of: CandidateSet,
    candidates: Candidates,
    answers: Rows,
    progress: Progress,
) -> AnswerRanks:
    """Ranks the held-out answers of `queries` among their candidates.

    Args:
        vectors: float32 [Q, width], the projected queries.
        answers: the complete table that the candidates are rows of.
        progress: counts scores.

    Raises:
        UserError: a score is not finite, as after the model diverged.
    """
    comparison = _Comparison(queries, vectors, candidates)
    scores = comparison.own_scores(answers)
    above = comparison.count_above(scores, of, progress)
    held = np.flatnonzero(queries.edges)
    return AnswerRanks(1 + above[held] / 2, list_ranks(queries, scores, 1 + above / 2)[held])


class _Comparison:
    """The buffers of one pass over the candidates."""

    def __init__(self, queries: FilteredQueries, vectors: Tensor, candidates: Candidates) -> None:
        self._queries, self._candidates, self._arithmetic = queries, candidates, candidates.arithmetic
        lines, width = candidates.shape
        self._lines = _Lines(queries, lines)
        # [blocks, Q, width], padded with zeros.
        factors = torch.zeros(-(-len(queries) // lines) * lines, vectors.shape[1], dtype=self._arithmetic.dtype)
        factors[: len(queries)] = vectors[torch.from_numpy(self._lines.query)]
        self._factors = self._arithmetic.factor(factors).unflatten(0, (-1, lines))
        device = self._arithmetic.device
        self._scores = torch.empty(lines, width, device=device)
        self._comparisons: Tensor | None = None
        if has_kernel(device):
            self._rows = torch.from_numpy(self._lines.row).to(device)
        else:
            self._comparisons = torch.empty(2, lines, width, dtype=torch.bool, device=device)

    def own_scores(self, answers: Rows) -> npt.NDArray[np.float32]:
        """[K] the scores of the answers that are held out or not removed; 0 for the others."""
        queries, (lines, width) = self._queries, self._candidates.shape
        kept = np.flatnonzero((queries.edges > 0) | ~queries.removed)
        line = self._lines.of_query[queries.query[kept]]
        order = np.argsort(line, kind="stable")
        kept, line = kept[order], line[order]
        scores = np.zeros(len(queries.answer), np.float32)
        for first in range(0, len(kept), GATHERED):
            of_part = slice(first, first + GATHERED)
            vectors, row = answers.gather(queries.answer[kept[of_part]]), line[of_part]
            for block in np.unique(row // lines).tolist():
                ends = np.searchsorted(row, [block * lines, (block + 1) * lines]).tolist()
                for start in range(ends[0], ends[1], width):
                    piece = slice(start, min(start + width, ends[1]))
                    factor = self._candidates.factor(vectors[piece])
                    self._arithmetic.product(self._factors[block], factor, self._scores)
                    column = torch.arange(piece.stop - piece.start)
                    own = self._scores[torch.from_numpy(row[piece] - block * lines), column]
                    scores[kept[of_part][piece]] = own.cpu().numpy()
        self._candidates.check()
        if not np.isfinite(scores).all():
            raise UserError(NOT_FINITE)
        return scores

    def count_above(self, scores: npt.NDArray[np.float32], of: CandidateSet, progress: Progress) -> Ints:
        """[K] for held-out answers, twice the negatives that score higher plus those that tie; 0 for the others."""
        device, (lines, width) = self._arithmetic.device, self._candidates.shape
        own = torch.from_numpy(scores[self._lines.held]).to(device)
        above = torch.zeros(len(own), dtype=torch.int64, device=device)
        filtered = self._filtered(of)
        cells = torch.from_numpy(filtered).to(device)
        for start, factor in self._candidates.blocks():
            first = start // width * len(self._factors)
            known = _slices(filtered, first, len(self._factors), lines * width)
            for block, (queries, of_block) in enumerate(zip(self._factors, known, strict=True)):
                self._arithmetic.product(queries, factor, self._scores)
                if start + width > self._candidates.size:
                    self._scores[:, self._candidates.size - start :] = torch.nan  # the padding of the last block
                if of_block.stop > of_block.start:
                    within = cells[of_block] - (first + block) * lines * width
                    self._scores.view(-1).index_fill_(0, within, torch.nan)
                self._compare(block, own, above)
            progress.update(len(self._queries) * min(width, self._candidates.size - start))
        counts = np.zeros(len(scores), np.int64)
        counts[self._lines.held] = above.cpu().numpy()
        return counts

    def _compare(self, block: int, own: Tensor, above: Tensor) -> None:
        """Adds the counts of a block of lines to `above` [A]; `own` [A] are the answers' scores."""
        if self._comparisons is None:
            from twhin_core.ranking.rank_kernels import count_above  # imports Triton

            answers = self._lines.of_block(block)
            count_above(self._scores, self._rows[answers], own[answers], above[answers])
            return
        for rows, answers in self._lines.tasks[block]:
            comparisons = self._comparisons[:, : answers.stop - answers.start]
            torch.gt(self._scores[rows], own[answers, None], out=comparisons[0])
            torch.ge(self._scores[rows], own[answers, None], out=comparisons[1])
            above[answers] += count_true(comparisons).sum(0)

    def _filtered(self, of: CandidateSet) -> Ints:
        """The known answers as cells of the score matrix, ascending, numbered in the order of `count_above`."""
        lines, width = self._candidates.shape
        column, known = of.columns(self._queries.answer)
        block, row = np.divmod(self._lines.of_query[self._queries.query[known]], lines)
        # In place, because there is one cell for every known answer.
        cells = column // width * len(self._factors) + block
        cells *= lines
        cells += row
        cells *= width
        cells += column % width
        cells.sort()
        return cells


def has_kernel(device: torch.device) -> bool:
    """Whether a Triton kernel compares the scores on this device."""
    return device.type == "cuda" and has_triton()


def _slices(cells: Ints, first: int, count: int, size: int) -> Iterator[slice]:
    """For each of `count` blocks of `size` cells, from block `first` on, the slice of the ascending `cells` in it."""
    ends = np.searchsorted(cells, np.arange(first, first + count + 1) * size).tolist()
    yield from map(slice, ends, ends[1:])


class _Task(NamedTuple):
    """One comparison of scores with answers: n rows of a block with n answers, or one row with up to Q answers."""

    rows: slice
    answers: slice


class _Lines:
    """Assigns queries to the lines of products of Q lines each, those with the most held-out answers first.

    In each product, the queries with an n-th answer are then the first lines, and their n-th answers are compared with
    the scores of these lines in one operation.
    """

    def __init__(self, queries: FilteredQueries, lines_per_block: int) -> None:
        held = np.flatnonzero(queries.edges)
        query = queries.query[held]
        counts = np.bincount(query, minlength=len(queries))
        self.query: Ints = np.argsort(-counts, kind="stable")
        """[n] the query of each line."""
        self.of_query = np.empty_like(self.query)
        """[n] the line of each query."""
        self.of_query[self.query] = np.arange(len(queries))
        layer = np.arange(len(held)) - np.searchsorted(query, query)
        block, row = np.divmod(self.of_query[query], lines_per_block)
        task = np.where(layer < LAYERS, layer, LAYERS + row)
        order = np.lexsort((np.where(layer < LAYERS, row, layer), task, block))
        self.held: Ints = held[order]
        """[A] the held-out answers in the order of comparison, as indices into `FilteredQueries.answer`."""
        self.row: Ints = row[order]
        """[A] their rows within their blocks."""
        self.tasks = _tasks(block[order], task[order], row[order], lines_per_block)
        """The tasks of each block."""

    def of_block(self, block: int) -> slice:
        """The answers of a block."""
        tasks = self.tasks[block]
        return slice(tasks[0].answers.start, tasks[-1].answers.stop)


def _tasks(block: Ints, task: Ints, row: Ints, most: int) -> list[list[_Task]]:
    tasks: list[list[_Task]] = [[] for _ in range(int(block[-1]) + 1)]
    starts = np.flatnonzero((np.diff(block, prepend=-1) != 0) | (np.diff(task, prepend=-1) != 0))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(block)], strict=True):
        if task[start] < LAYERS:
            tasks[block[start]].append(_Task(slice(0, stop - start), slice(start, stop)))
        else:
            line = slice(int(row[start]), int(row[start]) + 1)
            for first in range(start, stop, most):
                tasks[block[start]].append(_Task(line, slice(first, min(first + most, stop))))
    return tasks
