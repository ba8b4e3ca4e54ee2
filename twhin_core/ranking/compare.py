"""Exact filtered ranks of held-out answers, with the candidates read block by block.

Each query is scored once with each candidate, in products of one shape (`products.py`), and its held-out answers are
compared with a block of scores while the block is in the processor's cache. Scores of known answers are first set to
-inf, which is below every answer. No scores are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.errors import UserError
from twhin_core.model.fused_softmax import has_triton
from twhin_core.model.threads import map_in_threads
from twhin_core.progress import Progress
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.many_answers import MANY, ManyAnswers, group_answers
from twhin_core.ranking.products import NOT_FINITE, Candidates, count_true
from twhin_core.ranking.queries import FilteredQueries, Ints
from twhin_core.ranking.ranks import AnswerRanks, list_ranks
from twhin_core.vectors.rows import Rows

GATHERED = 16_384
"""Vectors of answers that are read at once."""


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
    with candidates.arithmetic.applied():
        scores = comparison.own_scores(answers)
        above = comparison.count_above(scores, of, progress)
    held = np.flatnonzero(queries.edges)
    return AnswerRanks(1 + above[held] / 2, list_ranks(queries, scores, 1 + above / 2)[held])


class _Comparison:
    """The buffers of one pass over the candidates. Each query is a line of a product of Q lines."""

    def __init__(self, queries: FilteredQueries, vectors: Tensor, candidates: Candidates) -> None:
        self._queries, self._candidates, self._arithmetic = queries, candidates, candidates.arithmetic
        lines = candidates.shape.queries
        blocks, device = -(-len(queries) // lines), self._arithmetic.device
        # [blocks, Q, width], padded with zeros.
        factors = torch.zeros(blocks * lines, vectors.shape[1], dtype=self._arithmetic.dtype)
        factors[: len(queries)] = vectors
        self._factors = self._arithmetic.factor(factors).unflatten(0, (-1, lines))
        self._has_kernel = has_kernel(device)
        in_threads = device.type == "cpu" and not self._has_kernel
        held = np.flatnonzero(queries.edges)
        # Every query has a first answer, so those of a block can be compared with its scores as they are.
        is_further = np.diff(queries.query[held], prepend=-1) == 0
        is_one_of_many = np.bincount(queries.query[held], is_further)[queries.query[held]] >= MANY
        kind = np.where(is_further & is_one_of_many & in_threads, 2, is_further)
        order = np.lexsort((kind, queries.query[held] // lines))
        self._held = held[order]
        """[A] the held-out answers, as indices into `FilteredQueries.answer`: block by block, and within each the first
        of every query, further ones, and further ones of queries that have many."""
        block, self._row = np.divmod(queries.query[self._held], lines)
        self._rows = torch.from_numpy(self._row).to(device)
        """[A] their lines within their blocks."""
        self._bounds = np.searchsorted(3 * block + kind[order], np.arange(3 * blocks + 1)).tolist()
        """Where the answers of each block and kind start, and the last ones end."""
        self._many: list[list[ManyAnswers]] = []
        self._threads = torch.get_num_threads() if in_threads else 1
        self._buffers = [_Buffers(candidates, self._has_kernel) for _ in range(self._threads)]

    def own_scores(self, answers: Rows) -> npt.NDArray[np.float32]:
        """[K] the scores of the answers that are held out or not removed; 0 for the others."""
        # In a thread like those that score the candidates: the number of a product's threads might change its rounding.
        scores = map_in_threads(torch.inference_mode()(self._own_scores), [answers], self._threads)[0]
        self._candidates.check()
        if not np.isfinite(scores).all():
            raise UserError(NOT_FINITE)
        return scores

    def _own_scores(self, answers: Rows) -> npt.NDArray[np.float32]:
        queries, (lines, width), buffer = self._queries, self._candidates.shape, self._buffers[0].scores
        kept = np.flatnonzero((queries.edges > 0) | ~queries.removed)
        scores = np.zeros(len(queries.answer), np.float32)
        for first in range(0, len(kept), GATHERED):
            part = kept[first : first + GATHERED]
            vectors, line = answers.gather(queries.answer[part]), queries.query[part]
            for block in np.unique(line // lines).tolist():
                start, stop = np.searchsorted(line, [block * lines, (block + 1) * lines]).tolist()
                for piece in (slice(at, min(at + width, stop)) for at in range(start, stop, width)):
                    factor = self._candidates.factor(vectors[piece])
                    self._arithmetic.product(self._factors[block], factor, buffer)
                    row, column = torch.from_numpy(line[piece] - block * lines), torch.arange(piece.stop - piece.start)
                    scores[part[piece]] = buffer[row, column].cpu().numpy()
        return scores

    def count_above(self, scores: npt.NDArray[np.float32], of: CandidateSet, progress: Progress) -> Ints:
        """[K] for held-out answers, twice the negatives that score higher plus those that tie; 0 for the others."""
        device, (lines, width) = self._arithmetic.device, self._candidates.shape
        own = torch.from_numpy(scores[self._held]).to(device)
        above = torch.zeros(len(own), dtype=torch.int64, device=device)
        self._many = [
            group_answers(self._row[start:stop], scores[self._held[start:stop]])
            for start, stop in zip(self._bounds[2::3], self._bounds[3::3], strict=True)
        ]
        filtered = self._filtered(of)
        cells = torch.from_numpy(filtered).to(device)
        for start, factor in self._candidates.blocks():
            first = start // width * len(self._factors)
            known = list(_slices(filtered, first, len(self._factors), lines * width))
            padding = max(0, start + width - self._candidates.size)  # of the last block
            compare = partial(self._compare_blocks, factor, padding, first, known, cells, own, above)
            map_in_threads(compare, range(self._threads), self._threads)
            progress.update(len(self._queries) * (width - padding))
        counts = np.zeros(len(scores), np.int64)
        counts[self._held] = above.cpu().numpy()
        return counts

    @torch.inference_mode()
    def _compare_blocks(
        self,
        factor: Tensor,
        padding: int,
        first: int,
        known: list[slice],
        cells: Tensor,
        own: Tensor,
        above: Tensor,
        thread: int,
    ) -> None:
        """Compares a thread's share of the queries with a block of candidates.

        Args:
            padding: how many candidates at the end of the block are none.
            first: the number of the first block of scores.
            known: for each block of queries, the slice of `cells` to filter.
        """
        buffers = self._buffers[thread]
        scores = buffers.scores
        for block in range(thread, len(self._factors), self._threads):
            self._arithmetic.product(self._factors[block], factor, scores)
            if padding:
                scores[:, -padding:] = -torch.inf
            if known[block].stop > known[block].start:
                scores.view(-1).index_fill_(0, cells[known[block]] - (first + block) * scores.numel(), -torch.inf)
            self._compare(buffers, block, own, above)

    def _compare(self, buffers: _Buffers, block: int, own: Tensor, above: Tensor) -> None:
        """Adds the counts of a block's answers to `above` [A]; `own` [A] are the answers' scores."""
        start, further, many, stop = self._bounds[3 * block : 3 * block + 4]
        if self._has_kernel:
            from twhin_core.ranking.rank_kernels import count_above  # imports Triton

            count_above(buffers.scores, self._rows[start:stop], own[start:stop], above[start:stop])
            return
        lines = len(buffers.scores)
        buffers.compare(buffers.scores[: further - start], own[start:further], above[start:further])
        for first in range(further, many, lines):
            part = slice(first, min(first + lines, many))
            rows = torch.index_select(buffers.scores, 0, self._rows[part], out=buffers.gathered[: part.stop - first])
            buffers.compare(rows, own[part], above[part])
        for group in self._many[block]:
            group.add_counts(buffers.scores.numpy(), above[many:stop])

    def _filtered(self, of: CandidateSet) -> Ints:
        """The known answers as cells of the score matrix, ascending, numbered in the order of `count_above`."""
        lines, width = self._candidates.shape
        column, known = of.columns(self._queries.answer)
        block, row = np.divmod(self._queries.query[known], lines)
        # In place, because there is one cell for every known answer.
        cells = column // width * len(self._factors) + block
        cells *= lines
        cells += row
        cells *= width
        cells += column % width
        cells.sort()
        return cells


class _Buffers:
    """What a thread keeps of a block: its scores, those of its further answers, and their comparisons."""

    def __init__(self, candidates: Candidates, has_kernel: bool) -> None:
        """`has_kernel`: whether it compares the scores, and nothing else is needed."""
        device = candidates.arithmetic.device
        self.scores = torch.empty(candidates.shape, device=device)
        if not has_kernel:
            self.gathered = torch.empty(candidates.shape, device=device)
            self._comparisons = torch.empty(2, *candidates.shape, dtype=torch.bool, device=device)

    def compare(self, scores: Tensor, own: Tensor, above: Tensor) -> None:
        """Adds the counts of n answers, each compared with its row of `scores` [n, C]."""
        comparisons = self._comparisons[:, : len(scores)]
        if scores.is_cuda:
            torch.gt(scores, own[:, None], out=comparisons[0])
            torch.ge(scores, own[:, None], out=comparisons[1])
        else:  # by numpy, which takes a third to an eighth of torch's time
            np.greater(scores.numpy(), own.numpy()[:, None], out=comparisons[0].numpy())
            np.greater_equal(scores.numpy(), own.numpy()[:, None], out=comparisons[1].numpy())
        above += count_true(comparisons).sum(0)


def has_kernel(device: torch.device) -> bool:
    """Whether a Triton kernel compares the scores on this device."""
    return device.type == "cuda" and has_triton()


def _slices(cells: Ints, first: int, count: int, size: int) -> Iterator[slice]:
    """For each of `count` blocks of `size` cells, from block `first` on, the slice of the ascending `cells` in it."""
    ends = np.searchsorted(cells, np.arange(first, first + count + 1) * size).tolist()
    yield from map(slice, ends, ends[1:])
