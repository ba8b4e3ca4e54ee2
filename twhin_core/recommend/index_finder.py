"""Candidates through the exported faiss index, which looks at a part of them, scored as the model scores them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from twhin_core.embeddings.index import Index, open_index, read_index, search_index
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import Query
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import Ints
from twhin_core.ranking.rescore import rescore
from twhin_core.recommend.finder import ExactFinder, Found, found_by

USERS_AT_ONCE = 1024
"""Users that are searched for together: those with about as many known edges, of which as many more are asked for."""


EVERY = 64
"""One of as many users gets an exact list too, to tell which share of exact lists the index finds."""


@dataclass(frozen=True)
class IndexFinder:
    """Searches the index for each user."""

    exact: ExactFinder
    """Knows the candidates, which must be all nodes of their table, and how they are scored."""
    result: Result
    query: Query
    entry: Index
    index: Any

    @property
    def candidates(self) -> CandidateSet:
        return self.exact.candidates

    def find(self, rows: Ints, excluded: tuple[Ints, Ints], progress: Progress) -> Found:
        """As `Finder.find`. May miss candidates."""
        k, of, size = self.exact.k, self.exact.candidates, self.exact.candidates.size
        cells = np.sort(excluded[0] * size + excluded[1])
        more = np.bincount(excluded[0], minlength=len(rows))
        columns = np.full((len(rows), min(k, size)), NONE)
        given = self.result.scored.rows(self.query.table).gather(rows)
        vectors = self.exact.projections.queries("rhs", np.repeat(of.relations, len(rows)), rows)
        answers = partial(self.exact.projections.answers, of)
        products = torch.full(columns.shape, -torch.inf)
        for chosen in _alike(more):
            asked = min(k + int(more[chosen].max()), size)
            _, found = search_index(self.index, self.entry, self.result, self.query, given[chosen], asked)
            found = np.where(_among(chosen[:, None] * size + found, cells) | (found < 0), NONE, found)
            best, kept = rescore(vectors[chosen], answers, found, columns.shape[1])
            products[chosen, : best.shape[1]], columns[chosen, : best.shape[1]] = best, kept
            progress.update(len(chosen) * size)
        with torch.no_grad():
            scores = self.exact.scorer.comparator.finish(products).numpy()
        return replace(found_by("index", of, columns, scores), compared=self._compare(rows, excluded, columns))

    def _compare(self, rows: Ints, excluded: tuple[Ints, Ints], columns: Ints) -> tuple[int, int]:
        """As `Found.compared`, of every `EVERY`th user."""
        position, column = excluded
        of_sample = position % EVERY == 0
        left_out = position[of_sample] // EVERY, column[of_sample]
        with Progress("compare", 1, "scores", quiet=True) as progress:
            best = self.exact.find(rows[::EVERY], left_out, progress).rows
        line = np.arange(len(best))[:, None] * self.candidates.size
        found, wanted = columns[::EVERY], (line + best)[best != NONE]
        return int(_among(wanted, np.sort((line + found)[found != NONE])).sum()), len(wanted)


def open_finder(exact: ExactFinder, result: Result, query: Query) -> IndexFinder:
    """Reads the index.

    Raises:
        UserError: no index of the candidates was exported, or it is corrupt.
    """
    entry = open_index(result, query)
    return IndexFinder(exact, result, query, entry, read_index(result, entry))


def _alike(counts: Ints) -> Iterator[Ints]:
    """Groups of positions with about the same counts."""
    order = np.argsort(counts, kind="stable")
    for start in range(0, len(order), USERS_AT_ONCE):
        yield order[start : start + USERS_AT_ONCE]


def _among(values: Ints, ascending: Ints) -> np.ndarray:
    """Whether each value is one of `ascending`."""
    if not len(ascending):
        return np.zeros(values.shape, bool)
    place = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    found: np.ndarray = ascending[place] == values
    return found
