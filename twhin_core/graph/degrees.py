"""How many edges nodes have, and what becomes of those with too few.

Ibis expressions over edges in numbers (see `edges`), that every engine runs alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import ibis
import ibis.expr.types as ir

from twhin_core.progress import log

Keep = Callable[[str, ir.Table], ir.Table]  # runs an expression and keeps its rows under a name, in place of older ones


def count_degrees(edges: ir.Table) -> ir.Table:
    """Every node of `edges`: table, index, `ends`, those of edges at it, and `degree`, those of training edges.

    An edge from a node to itself has two ends there.
    """
    in_train = (edges.split == "train").fill_null(False).cast("int64")
    lhs = edges.select(table=edges.lhs_table, index=edges.lhs, in_train=in_train)
    rhs = edges.select(table=edges.rhs_table, index=edges.rhs, in_train=in_train)
    both = lhs.union(rhs)
    return both.group_by("table", "index").agg(ends=both.count(), degree=both.in_train.sum().cast("int64"))


def without(edges: ir.Table, nodes: ir.Table) -> ir.Table:
    """The edges with no end among `nodes` (table, index)."""
    edges = edges.anti_join(nodes.select(lhs_table="table", lhs="index"), ["lhs_table", "lhs"])
    return edges.anti_join(nodes.select(rhs_table="table", rhs="index"), ["rhs_table", "rhs"])


def at(edges: ir.Table, nodes: ir.Table) -> ir.Table:
    """The other edges, those with an end among `nodes`."""
    lhs, rhs = nodes.select(lhs_table="table", lhs="index"), nodes.select(rhs_table="table", rhs="index")
    at_lhs = edges.semi_join(lhs, ["lhs_table", "lhs"])
    at_rhs_alone = edges.anti_join(lhs, ["lhs_table", "lhs"]).semi_join(rhs, ["rhs_table", "rhs"])
    return at_lhs.union(at_rhs_alone)


def find_weak_nodes(keep: Keep, edges: ir.Table, minimum: dict[str, int], rounds: int | None) -> ir.Table:
    """The nodes (table, index) that go when, time and again, those with fewer edges than their table's minimum go.

    A node's edges go with it, so that others may have too few then. It ends when none has, or after that many rounds.
    """
    nodes, count = None, 0
    for round_ in itertools.count(1) if rounds is None else range(1, rounds + 1):
        left = edges if nodes is None else without(edges, nodes)
        weak = _weak(left, minimum)
        nodes = keep("weak_nodes", weak if nodes is None else nodes.union(weak))
        before, count = count, int(nodes.count().execute())
        log.info("prepare: %s nodes have too few edges (round %d)", f"{count:,}", round_)
        if count == before:
            break
    assert nodes is not None
    return nodes


def _weak(edges: ir.Table, minimum: dict[str, int]) -> ir.Table:
    degrees = count_degrees(edges)
    least = ibis.cases(*((degrees.table == table, degree) for table, degree in minimum.items()), else_=0)
    return degrees.filter(degrees.ends < least).select("table", "index")
