"""Exact filtered ranks of held-out answers among candidates that are read block by block.

Every query is scored once with every candidate, in products of one shape (`products.py`), and all its held-out answers
are compared with the block of scores while that is in the processor's cache. What is known of a query is struck out of
its scores before: nan is neither more than a score nor equal to one. Nothing is sorted and no score is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.errors import UserError
from twhin_core.evaluation.candidates import Candidates, CandidateSet
from twhin_core.evaluation.lines import Lines
from twhin_core.evaluation.positions import positions
from twhin_core.evaluation.products import Arithmetic, count_true
from twhin_core.evaluation.queries import Ints, Queries
from twhin_core.progress import Progress
from twhin_core.vectors.rows import Rows

Floats = npt.NDArray[np.float64]

GATHERED = 16_384
"""Vectors of answers that are read at once."""


@dataclass(frozen=True)
class Places:
    """Where the H held-out answers of queries stand, in the order of `Queries.answer`."""

    rank: Floats
    """[H] filtered rank: 1 + the rivals that score higher + half of those that score the same.

    Rivals are all candidates but the query's known answers; so a tie puts the answer in the middle.
    """
    position: Floats
    """[H] place among all candidates that are left when the query's removed answers are taken out; nan where the
    answer itself is removed.

    A tie with a wrong candidate puts the answer in the middle; held-out answers of one query take successive places.
    """


@torch.inference_mode()
def rank(
    queries: Queries,
    vectors: Tensor,
    of: CandidateSet,
    candidates: Candidates,
    answers: Rows,
    arithmetic: Arithmetic,
    progress: Progress,
) -> Places:
    """Ranks every held-out answer of `queries` among their candidates.

    Args:
        vectors: float32 [Q, width], each query's.
        answers: the whole table that the candidates are of.
        progress: is given the number of scores made.

    Raises:
        UserError: a score is not finite, as those of a model that diverged.
    """
    ranking = _Ranking(queries, vectors, candidates, arithmetic)
    scores = ranking.own_scores(answers)
    above = ranking.compare(scores, of, progress)
    held = np.flatnonzero(queries.edges)
    return Places(1 + above[held] / 2, positions(queries, scores, 1 + above / 2)[held])


class _Ranking:
    """The buffers of one pass over the candidates."""

    def __init__(self, queries: Queries, vectors: Tensor, candidates: Candidates, arithmetic: Arithmetic) -> None:
        self._queries, self._candidates, self._arithmetic = queries, candidates, arithmetic
        lines, width = candidates.shape
        self._lines = Lines(queries, lines)
        # [blocks, Q, width], filled up with noughts.
        factors = torch.zeros(-(-len(queries) // lines) * lines, vectors.shape[1], dtype=arithmetic.dtype)
        factors[: len(queries)] = vectors[torch.from_numpy(self._lines.query)]
        self._factors = arithmetic.factor(factors).unflatten(0, (-1, lines))
        self._scores = torch.empty(lines, width, device=arithmetic.device)
        self._comparisons = torch.empty(2, lines, width, dtype=torch.bool, device=arithmetic.device)

    def own_scores(self, answers: Rows) -> npt.NDArray[np.float32]:
        """[K]: the scores of the answers that are held out or not removed; of the others 0."""
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
        if not np.isfinite(scores).all():
            raise UserError("scores are not finite: the model diverged; lower its learning rates")
        return scores

    def compare(self, scores: npt.NDArray[np.float32], of: CandidateSet, progress: Progress) -> Ints:
        """[K]: for the answers held out, twice the rivals that score higher and once those that score the same."""
        device, (lines, width) = self._arithmetic.device, self._candidates.shape
        own = torch.from_numpy(scores[self._lines.held]).to(device)[:, None]
        above = torch.zeros(len(own), dtype=torch.int64, device=device)
        struck = self._struck(of)
        for start, factor in self._candidates.blocks():
            known = _slices(struck, start // width * len(self._factors), len(self._factors), lines * width)
            for queries, places, tasks in zip(self._factors, known, self._lines.tasks, strict=True):
                self._arithmetic.product(queries, factor, self._scores)
                self._scores[:, self._candidates.size - start :] = torch.nan  # of the noughts that fill up the last
                if len(places):
                    self._scores.view(-1).index_fill_(0, torch.from_numpy(places).to(device), torch.nan)
                for rows, answers in tasks:
                    comparisons = self._comparisons[:, : answers.stop - answers.start]
                    torch.gt(self._scores[rows], own[answers], out=comparisons[0])
                    torch.ge(self._scores[rows], own[answers], out=comparisons[1])
                    above[answers] += count_true(comparisons).sum(0)
            progress.update(len(self._queries) * min(width, self._candidates.size - start))
        counts = np.zeros(len(scores), np.int64)
        counts[self._lines.held] = above.cpu().numpy()
        return counts

    def _struck(self, of: CandidateSet) -> Ints:
        """The places of known answers in all scores, block by block as `compare` makes these, ascending."""
        lines, width = self._candidates.shape
        column, known = of.columns(self._queries.answer)
        block, row = np.divmod(self._lines.of_query[self._queries.query[known]], lines)
        places = column // width * len(self._factors) + block
        places *= lines
        places += row
        places *= width
        places += column % width
        places.sort()
        return places


def _slices(places: Ints, first: int, count: int, size: int) -> Iterator[Ints]:
    """Those of ascending `places` in each of `count` blocks of `size` places, from block `first` on."""
    ends = np.searchsorted(places, np.arange(first, first + count + 1) * size)
    for number in range(count):
        yield places[ends[number] : ends[number + 1]] - (first + number) * size
