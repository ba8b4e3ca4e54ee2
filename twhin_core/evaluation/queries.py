"""Held-out edges as queries for one of their sides, (lhs, rel, ?) or (?, rel, rhs), and the answers known to be right.

Everywhere here a query's `node` is the end that it names, and its `answer` is a node on its `side`.
"""

from __future__ import annotations

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
"""By the split evaluated: the splits whose answers are no candidates where recall and ndcg are taken."""


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
    """[H] how often the edge is held out."""
    query: Ints
    """[H] number of its query."""
    first: Ints
    """[Q] the first answer of each query."""

    def __len__(self) -> int:
        return len(self.rel)

    @property
    def queries(self) -> int:
        """Q."""
        return len(self.first)


def held_out(edges: Edges, side: Side) -> HeldOut:
    """`edges` as answers to queries for `side`."""
    node, answer = ends(edges, side)
    order = np.lexsort((answer, node, edges.rel))
    columns = np.stack([edges.rel[order], node[order], answer[order]])
    differs = np.diff(columns, axis=1, prepend=-1) != 0
    each = np.flatnonzero(differs.any(0))
    rel, node, answer = columns[:, each]
    begins = differs[:2, each].any(0)
    times = np.diff(each, append=len(order))
    return HeldOut(side, rel, node, answer, times, begins.cumsum() - 1, np.flatnonzero(begins))


def ends(edges: Edges, side: Side) -> tuple[Ints, Ints]:
    """Of each edge as a query for `side`: its node, and its answer."""
    return getattr(edges, OTHER[side]), getattr(edges, side)


@dataclass(frozen=True)
class FilteredQueries:
    """Q queries, sorted by relation and node, with all K answers known to be right, each once, sorted by query and row.

    Ranks are filtered: a known answer never counts against another one.
    """

    side: Side
    rel: Ints
    """[Q]"""
    node: Ints
    """[Q] row of the query's node in its table."""
    query: Ints
    """[K] the query an answer belongs to."""
    answer: Ints
    """[K] row of the answer in its table."""
    edges: Ints
    """[K] how many held-out edges have this answer; 0 where it is known from another split only."""
    removed: npt.NDArray[np.bool_]
    """[K] whether the answer is no candidate where recall and ndcg are taken (see `REMOVED`)."""

    def __len__(self) -> int:
        return len(self.rel)
