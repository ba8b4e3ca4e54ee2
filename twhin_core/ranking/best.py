"""The best candidates of many queries, with the candidates read block by block.

A block of queries is scored with a block of candidates, and only the few scores that are above the query's k-th best so
far are looked at again. No scores are kept.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from twhin_core.model.threads import map_in_threads
from twhin_core.progress import Progress
from twhin_core.ranking.products import Candidates, Shape
from twhin_core.ranking.queries import Ints
from twhin_core.ranking.staging import even_blocks

NONE = -1
"""The column of a place without a candidate, whose product is -inf."""

LARGEST = {"cpu": Shape(256, 4096), "cuda": Shape(4096, 32_768)}
"""Wider than for ranks, because a block of scores is looked at once only."""


def list_shape(queries: int, candidates: int, device: torch.device) -> Shape:
    """The shape of products that gives the fewest blocks with the least padding."""
    largest = LARGEST[device.type]
    lines = min(largest.queries, math.ceil(max(queries, 1) / 16) * 16)
    return Shape(lines, even_blocks(candidates, largest.candidates, 64))


@torch.inference_mode()
def find_best(
    vectors: Tensor, candidates: Candidates, k: int, excluded: tuple[Ints, Ints], progress: Progress
) -> tuple[Tensor, Tensor]:
    """The k candidates of each query with the greatest products, best first. Ties at the end of a list are arbitrary.

    Args:
        vectors: float32 [Q, width], the projected queries.
        excluded: (query, column) int64 [E] each, the candidates that are none for a query; in any order.
        progress: counts scores.

    Returns:
        products float32 [Q, k] and columns int64 [Q, k], on the CPU: -inf and `NONE` where a query has fewer than k
        candidates.

    Raises:
        UserError: a number is not finite.
    """
    search = _Search(vectors, candidates, k, excluded)
    with candidates.arithmetic.applied():
        search.read(progress)
    return search.result()


class _Search:
    """One pass over the candidates. The queries are divided into blocks of as many lines as a product has."""

    def __init__(self, vectors: Tensor, candidates: Candidates, k: int, excluded: tuple[Ints, Ints]) -> None:
        self._candidates, self._arithmetic, self._queries = candidates, candidates.arithmetic, len(vectors)
        lines, device = candidates.shape.queries, self._arithmetic.device
        blocks = max(1, -(-len(vectors) // lines))
        factors = torch.zeros(blocks * lines, vectors.shape[1], dtype=self._arithmetic.dtype)
        factors[: len(vectors)] = vectors
        self._factors = self._arithmetic.factor(factors).unflatten(0, (-1, lines))
        self._lists = [_Lists(lines, k, device) for _ in range(blocks)]
        self._cells = self._cells_of(*excluded)
        self._threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._scores = [torch.empty(candidates.shape, device=device) for _ in range(self._threads)]

    def read(self, progress: Progress) -> None:
        lines, width = self._candidates.shape
        cells = torch.from_numpy(self._cells).to(self._arithmetic.device)
        for start, factor in self._candidates.blocks():
            first = start // width * len(self._factors)
            bounds = np.arange(first, first + len(self._factors) + 1) * (lines * width)
            ends = np.searchsorted(self._cells, bounds).tolist()
            map_in_threads(partial(self._scan, start, factor, cells, ends), range(self._threads), self._threads)
            progress.update(self._queries * (min(start + width, self._candidates.size) - start))

    @torch.inference_mode()
    def _scan(self, start: int, factor: Tensor, cells: Tensor, ends: list[int], thread: int) -> None:
        """Scores a thread's share of the queries with the candidates from `start` on.

        Args:
            ends: the bounds of each block's slice of `cells`.
        """
        scores, (lines, width) = self._scores[thread], self._candidates.shape
        padding = max(0, start + width - self._candidates.size)
        first = start // width * len(self._factors)
        for block in range(thread, len(self._factors), self._threads):
            self._arithmetic.product(self._factors[block], factor, scores)
            if padding:
                scores[:, -padding:] = -torch.inf
            if ends[block] < ends[block + 1]:
                of_block = cells[ends[block] : ends[block + 1]] - (first + block) * (lines * width)
                scores.view(-1).index_fill_(0, of_block, -torch.inf)
            self._lists[block].add(scores, start)

    def _cells_of(self, query: Ints, column: Ints) -> Ints:
        """The excluded pairs as cells of the score matrix, ascending, in the order in which they are computed."""
        lines, width = self._candidates.shape
        block, line = np.divmod(query, lines)
        cells: Ints = ((column // width * len(self._factors) + block) * lines + line) * width + column % width
        cells.sort()
        return cells

    def result(self) -> tuple[Tensor, Tensor]:
        lists = [of.sorted() for of in self._lists]
        products, columns = (torch.cat(parts)[: self._queries].cpu() for parts in zip(*lists, strict=True))
        return products, columns


class _Lists:
    """The best k so far of a block of queries."""

    def __init__(self, lines: int, k: int, device: torch.device) -> None:
        self._products = torch.full((lines, k), -torch.inf, device=device)
        self._columns = torch.full((lines, k), NONE, device=device)
        self._least = np.full((lines, 1), -np.inf, np.float32)
        self._pending: list[tuple[Ints, Tensor, Ints]] = []
        self._count = 0

    def add(self, scores: Tensor, start: int) -> None:
        """Takes in the scores [lines, C] of the candidates from column `start` on."""
        if scores.is_cuda:
            self._merge(*self._best_of(scores, start))
            return
        cell = np.flatnonzero(scores.numpy() > self._least)
        if len(cell) > self._products.numel():
            self._merge(*self._best_of(scores, start))
        elif len(cell):
            line, column = np.divmod(cell, scores.shape[1])
            self._pending.append((line, scores.view(-1)[torch.from_numpy(cell)], column + start))
            self._count += len(cell)
            if self._count > self._products.numel():
                self._settle()

    def _best_of(self, scores: Tensor, start: int) -> tuple[Tensor, Tensor]:
        products, columns = scores.topk(min(self._products.shape[1], scores.shape[1]), 1, sorted=False)
        return products, columns + start

    def _settle(self) -> None:
        """Merges what is pending: one padded line for each query."""
        line, column = (np.concatenate([of[part] for of in self._pending]) for part in (0, 2))
        product = torch.cat([of[1] for of in self._pending])
        self._pending, self._count = [], 0
        order = np.argsort(line, kind="stable")
        line, count = line[order], np.bincount(line, minlength=len(self._products))
        place = line, np.arange(len(line)) - (count.cumsum() - count)[line]
        products = torch.full((len(count), int(count.max())), -torch.inf)
        columns = torch.full(products.shape, NONE)
        products.numpy()[place], columns.numpy()[place] = product.numpy()[order], column[order]
        self._merge(products, columns)

    def _merge(self, products: Tensor, columns: Tensor) -> None:
        products, columns = torch.cat([self._products, products], 1), torch.cat([self._columns, columns], 1)
        self._products, kept = products.topk(self._products.shape[1], 1, sorted=False)
        self._columns = columns.gather(1, kept)
        if not self._products.is_cuda:
            self._least = self._products.amin(1, keepdim=True).numpy()

    def sorted(self) -> tuple[Tensor, Tensor]:
        if self._pending:
            self._settle()
        # The smaller column first among equal products.
        columns, order = self._columns.sort(dim=1)
        products, by_product = self._products.gather(1, order).sort(dim=1, descending=True, stable=True)
        columns = columns.gather(1, by_product)
        return products, torch.where(products == -torch.inf, NONE, columns)
