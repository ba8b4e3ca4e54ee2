"""The distribution of training degrees, by table and by relation and side.

The engine counts the nodes per degree, which for 10^11 edges gives less than 10^6 rows. The statistics follow exactly
from these.
"""

from __future__ import annotations

import ibis.expr.types as ir
import numpy as np

from twhin_core.graph.manifest import DegreeEntry
from twhin_core.graph.plan import Graph

QUANTILES = (0.5, 0.9, 0.99, 1.0)
TOP_SHARE = 0.01
CLASSES = (TOP_SHARE, 0.1, 0.5, 1.0)


def table_degrees(graph: Graph) -> dict[str, DegreeEntry]:
    """By table, over all its nodes, including those without training edges."""
    counted = _histograms(graph.made.vocabulary.select("degree", key=graph.made.vocabulary.table))
    return {table: summarize(counted.get(table, {})) for table in graph.tables}


def relation_degrees(graph: Graph) -> list[dict[str, DegreeEntry]]:
    """By relation, in the order of ids, and side, over the nodes with training edges there."""
    in_train = graph.made.edges.filter(graph.made.edges.split == "train")
    sides = {}
    for side in ("lhs", "rhs"):
        nodes = in_train.group_by("rel", side).agg(degree=in_train.count())
        sides[side] = _histograms(nodes.select("degree", key="rel"))
    return [
        {side: summarize(counted.get(rel, {})) for side, counted in sides.items()}
        for rel in range(len(graph.relations))
    ]


def _histograms(nodes: ir.Table) -> dict[object, dict[int, int]]:
    """For each key of `nodes` (key, degree): degree → number of nodes."""
    found: dict[object, dict[int, int]] = {}
    for row in nodes.group_by("key", "degree").agg(nodes=nodes.count()).to_pyarrow().to_pylist():
        found.setdefault(row["key"], {})[row["degree"]] = row["nodes"]
    return found


def summarize(histogram: dict[int, int]) -> DegreeEntry:
    """The statistics of a histogram: degree → number of nodes."""
    if not histogram:
        return DegreeEntry(nodes=0, mean=0.0, quantiles={str(q): 0 for q in QUANTILES}, top_share=0.0, shares=[])
    degrees = np.array(sorted(histogram))
    nodes = np.array([histogram[degree] for degree in degrees])
    up_to = nodes.cumsum()
    count, ends = int(up_to[-1]), int((degrees * nodes).sum())
    quantiles = {str(q): int(degrees[np.searchsorted(up_to, np.ceil(q * count))]) for q in QUANTILES}
    # From the highest degree down, the ends of as many nodes as each class and those before it have.
    tops = np.ceil(np.array(CLASSES) * count)
    taken = np.diff(np.minimum(nodes[::-1].cumsum(), tops[:, None]), prepend=0)
    up_to_class = (taken * degrees[::-1]).sum(axis=1)
    shares = (np.diff(up_to_class, prepend=0) / ends).tolist() if ends else []
    return DegreeEntry(
        nodes=count,
        mean=ends / count,
        quantiles=quantiles,
        top_share=shares[0] if shares else 0.0,
        shares=shares,
    )
