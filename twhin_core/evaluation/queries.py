"""Held-out edges as queries for one of their sides, each with every answer that is known to be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from twhin_core.data.edges import Edges
from twhin_core.model.scorer import Side

Ints = npt.NDArray[np.int64]
Split = Literal["validation", "test"]

REMOVED: dict[Split, tuple[str, ...]] = {"test": ("train", "validation"), "validation": ("train",)}
"""By the split evaluated: the splits whose answers are no longer candidates where recall and ndcg are taken."""


@dataclass(frozen=True)
class Queries:
    """Q queries (lhs, rel, ?) or (?, rel, rhs), sorted by relation and given node, with K known answers in all.

    The answers of query q are the entries offsets[q] … offsets[q + 1] - 1, each answer once, sorted by node.
    """

    side: Side
    """The side asked for."""
    rel: Ints
    """[Q]"""
    given: Ints
    """[Q] row of the known end in its table."""
    offsets: Ints
    """[Q + 1]"""
    query: Ints
    """[K] the query an answer belongs to."""
    answer: Ints
    """[K] row of the answer in its table."""
    edges: Ints
    """[K] how many held-out edges ask for this answer; 0 where it is known from another split only."""
    removed: npt.NDArray[np.bool_]
    """[K] whether the answer is no candidate where recall and ndcg are taken (see `REMOVED`)."""

    def __len__(self) -> int:
        return len(self.rel)

    def take(self, queries: Ints) -> Queries:
        """Some of the queries, in ascending order, with their answers."""
        counts = np.diff(self.offsets)[queries]
        offsets = np.concatenate([[0], counts.cumsum()])
        query = np.repeat(np.arange(len(queries)), counts)
        known = self.offsets[queries][query] + np.arange(len(query)) - offsets[query]
        return Queries(
            side=self.side,
            rel=self.rel[queries],
            given=self.given[queries],
            offsets=offsets,
            query=query,
            answer=self.answer[known],
            edges=self.edges[known],
            removed=self.removed[known],
        )


def group(splits: dict[str, Edges], evaluated: Split, side: Side) -> Queries:
    """The queries that the edges of the split `evaluated` ask for `side`, with their answers in all of `splits`."""
    given = {name: edges.lhs if side == "rhs" else edges.rhs for name, edges in splits.items()}
    wanted = {name: edges.rhs if side == "rhs" else edges.lhs for name, edges in splits.items()}
    rows = 1 + max(int(nodes.max(initial=0)) for nodes in [*given.values(), *wanted.values()])
    queries = np.unique(splits[evaluated].rel * rows + given[evaluated])
    known: dict[str, npt.NDArray[np.int64]] = {}
    for name, edges in splits.items():
        key = edges.rel * rows + given[name]
        query = np.minimum(np.searchsorted(queries, key), len(queries) - 1)
        asked = queries[query] == key
        known[name] = query[asked] * rows + wanted[name][asked]
    answers = np.unique(np.concatenate(list(known.values())))
    removed = np.zeros(len(answers), np.bool_)
    for name in REMOVED[evaluated]:
        if name in known:
            removed[np.searchsorted(answers, known[name])] = True
    query = answers // rows
    return Queries(
        side=side,
        rel=queries // rows,
        given=queries % rows,
        offsets=np.searchsorted(query, np.arange(len(queries) + 1)),
        query=query,
        answer=answers % rows,
        edges=np.bincount(np.searchsorted(answers, known[evaluated]), minlength=len(answers)),
        removed=removed,
    )
