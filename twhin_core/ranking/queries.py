"""Held-out edges as queries for one of their sides, (lhs, rel, ?) or (?, rel, rhs), with their known answers.

A query's `node` is the end it is given; its `answer` is a node on the `side` it asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from twhin_core.data.edges import Edges
from twhin_core.schema import OTHER, Side

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Split = Literal["validation", "test"]

REMOVED: dict[Split, tuple[str, ...]] = {"test": ("train", "validation"), "validation": ("train",)}
"""For each evaluated split, the splits whose edges are removed from the candidate lists of recall and ndcg."""


@dataclass(frozen=True)
class HeldOut:
    """The H distinct held-out edges, sorted by relation, node and answer, as answers to Q queries for `side`."""

    side: Side
    rel: Ints
    """[H]"""
    node: Ints
    """[H] row of the query's node in its table."""
    answer: Ints
    """[H] row of the answer in its table."""
    edges: Ints
    """[H] how often the edge occurs in the split."""
    query: Ints
    """[H] number of its query."""
    first: Ints
    """[Q] index of each query's first answer."""

    def __len__(self) -> int:
        return len(self.rel)

    @property
    def queries(self) -> int:
        """Q."""
        return len(self.first)

    def take(self, answers: Ints) -> HeldOut:
        """These answers alone, ascending, with queries numbered anew."""
        query = self.query[answers]
        is_first = np.diff(query, prepend=-1) != 0
        columns = self.rel[answers], self.node[answers], self.answer[answers], self.edges[answers]
        return HeldOut(self.side, *columns, is_first.cumsum() - 1, np.flatnonzero(is_first))

    def answers_of(self, queries: Ints) -> Ints:
        """The indices of the answers of these queries, query by query."""
        count = np.append(self.first[1:], len(self))[queries] - self.first[queries]
        before = count.cumsum() - count
        return np.arange(count.sum()) + np.repeat(self.first[queries] - before, count)


def held_out(edges: Edges, side: Side) -> HeldOut:
    """`edges` as answers to queries for `side`."""
    node, answer = ends(edges, side)
    order = np.lexsort((answer, node, edges.rel))
    columns = np.stack([edges.rel[order], node[order], answer[order]])
    differs = np.diff(columns, axis=1, prepend=-1) != 0
    each = np.flatnonzero(differs.any(0))
    rel, node, answer = columns[:, each]
    is_first = differs[:2, each].any(0)
    times = np.diff(each, append=len(order))
    return HeldOut(side, rel, node, answer, times, is_first.cumsum() - 1, np.flatnonzero(is_first))


def ends(edges: Edges, side: Side) -> tuple[Ints, Ints]:
    """(node, answer) of each edge as a query for `side`."""
    return getattr(edges, OTHER[side]), getattr(edges, side)


def split_by(label: Ints) -> Iterator[tuple[int, Ints]]:
    """Each label that occurs, ascending, with the indices at which it does. `label` [n] is sorted once."""
    order = np.argsort(label, kind="stable")
    found, first = np.unique(label[order], return_index=True)
    return zip(found.tolist(), np.split(order, first[1:]), strict=True) if len(label) else iter(())


@dataclass(frozen=True)
class FilteredQueries:
    """Q queries, sorted by relation and node, with their K distinct known answers, sorted by query and row.

    Ranks are filtered: no known answer counts against another.
    """

    side: Side
    rel: Ints
    """[Q]"""
    node: Ints
    """[Q] row of the query's node in its table."""
    query: Ints
    """[K] the query that an answer belongs to."""
    answer: Ints
    """[K] row of the answer in its table."""
    edges: Ints
    """[K] how many held-out edges have this answer; 0 if only other splits do."""
    removed: npt.NDArray[np.bool_]
    """[K] whether recall and ndcg remove the answer from the candidates (see `REMOVED`)."""

    def __len__(self) -> int:
        return len(self.rel)
