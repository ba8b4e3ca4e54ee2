"""How unequal the weights of the training edges are, by relation.

The engine counts the edges of each range of weights, a sixteenth of an octave wide: for any number of edges, a few
hundred rows per relation.
"""

from __future__ import annotations

import ibis
import numpy as np

from twhin_core.graph.manifest import RelationEntry, WeightEntry
from twhin_core.graph.plan import Graph
from twhin_core.progress import log

RANGES_PER_OCTAVE = 16
TOP_SHARE = 0.001
SKEWED, SKEWED_TIMES = 0.05, 10
"""The heaviest edges decide the loss from this share of the weight on, if it is also that many times their number's."""

Range = tuple[int, int, float, float]
"""The number of a range of weights, its edges, the sum of their weights, and the largest."""


def relation_weights(graph: Graph) -> list[WeightEntry | None]:
    """By relation, in the order of ids; None if edges have no weights, or the relation has no training edges."""
    found: list[list[Range]] = [[] for _ in graph.relations]
    if graph.weighted:
        edges = graph.made.edges.filter(graph.made.edges.split == "train")
        edges = edges.select("rel", weight=edges.weight.cast("float32").cast("float64"))
        # Half a range up, so that no power of 2 lies where two ranges meet: engines round its logarithm differently.
        edges = edges.mutate(range=(edges.weight.log2() * RANGES_PER_OCTAVE + 0.5).floor().cast("int64"))
        ranges = edges.group_by("rel", "range").agg(
            edges=ibis._.count(), total=ibis._.weight.sum(), largest=ibis._.weight.max()
        )
        for row in ranges.to_pyarrow().to_pylist():
            found[row["rel"]].append((row["range"], row["edges"], row["total"], row["largest"]))
    return [summarize(of) if of else None for of in found]


def summarize(ranges: list[Range]) -> WeightEntry:
    """The statistics of a relation. Where a range is divided, its heaviest edges count with the mean of all of its."""
    _, edges, totals, largest = zip(*sorted(ranges, reverse=True), strict=True)
    count, total = sum(edges), sum(totals)
    top = int(np.ceil(TOP_SHARE * count))
    taken = np.diff(np.minimum(np.cumsum(edges), top), prepend=0)
    share = float((taken / edges * totals).sum()) / total
    return WeightEntry(mean=_rounded(total / count), max=max(largest), top_edges=top, top_share=_rounded(share))


def _rounded(value: float) -> float:
    """Without the digits in which engines differ, which sum in different orders."""
    return float(f"{value:.4g}")


def warn_of_skew(relations: list[RelationEntry]) -> None:
    """Logs each relation a few of whose edges carry much of its loss."""
    for entry in relations:
        weights, edges = entry.weights, entry.edges["train"]
        if weights is None or weights.top_share < max(SKEWED, SKEWED_TIMES * weights.top_edges / edges):
            continue
        heaviest = "the heaviest edge" if weights.top_edges == 1 else f"the {weights.top_edges:,} heaviest edges"
        log.warning(
            "prepare: weights of %s: %.0f%% of their sum is that of %s of %s, up to %g at a mean of %g, which decides "
            "the loss. Take the logarithms, with `transform: log1p` in the source's `weight`, or leave `weight` out",
            entry.name, 100 * weights.top_share, heaviest, f"{edges:,}", weights.max, weights.mean,
        )  # fmt: skip
