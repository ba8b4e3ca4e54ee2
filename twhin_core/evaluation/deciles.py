"""Recall by decile of the answers' training edges: what lists find of the niche, and what of the popular.

The held-out answers are sorted by their training edges and cut into ten groups of as nearly equal numbers as ties
allow: answers with as many edges stay together, and each cut is the one nearest to its tenth of the answers, or the
lower of two. So there may be fewer groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from twhin_core.ranking.queries import Ints

GROUPS = 10

Histogram = tuple[Ints, Ints]
"""Numbers of training edges, ascending, and how many answers have as many."""


def deciles(answers: Histogram, hits: Mapping[int, Histogram]) -> list[dict[str, Any]]:
    """The groups from the fewest edges to the most: `from`, `to`, `answers` and `recall@k`.

    Args:
        hits: by k, the answers that are in the first k of their user's list.
    """
    edges, count = answers
    if not len(edges):
        return []
    # The group of the middle one of the answers with as many edges.
    group = GROUPS * (2 * count.cumsum() - count) // (2 * count.sum())
    first = np.flatnonzero(np.diff(group, prepend=-1))
    last = np.append(first[1:], len(edges)) - 1
    total = np.add.reduceat(count, first)
    columns: dict[str, list[Any]] = {
        "from": edges[first].tolist(),
        "to": edges[last].tolist(),
        "answers": total.tolist(),
    }
    for k, (of, found) in hits.items():
        of_edges = np.zeros_like(count)
        of_edges[np.searchsorted(edges, of)] = found
        columns[f"recall@{k}"] = (np.add.reduceat(of_edges, first) / total).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
