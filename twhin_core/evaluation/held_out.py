"""Held-out edges as answers to queries for one of their sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twhin_core.data.edges import Edges
from twhin_core.evaluation.queries import Ints
from twhin_core.schema import Side


@dataclass(frozen=True)
class HeldOut:
    """The H different held-out edges, sorted by relation, given node and answer: answers to Q queries for `side`."""

    side: Side
    """The side asked for."""
    rel: Ints
    """[H]"""
    given: Ints
    """[H] row of the known end in its table."""
    answer: Ints
    """[H] row of the answer in its table."""
    edges: Ints
    """[H] how many held-out edges are the same one."""
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
    given, answer = (edges.lhs, edges.rhs) if side == "rhs" else (edges.rhs, edges.lhs)
    order = np.lexsort((answer, given, edges.rel))
    columns = np.stack([edges.rel[order], given[order], answer[order]])
    differs = np.diff(columns, axis=1, prepend=-1) != 0
    each = np.flatnonzero(differs.any(0))
    rel, given, answer = columns[:, each]
    begins = differs[:2, each].any(0)
    return HeldOut(
        side=side,
        rel=rel,
        given=given,
        answer=answer,
        edges=np.diff(each, append=len(order)),
        query=begins.cumsum() - 1,
        first=np.flatnonzero(begins),
    )
