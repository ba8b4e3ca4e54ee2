"""Queries for a side of held-out edges, each with every answer that is known to be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from twhin_core.schema import Side

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
