"""Node degrees, and the removal of nodes with too few edges.

Ibis expressions over encoded edges (see `edges`), which all engines evaluate identically.
"""

from __future__ import annotations

import itertools

import ibis
import ibis.expr.types as ir

from twhin_core.graph.engine import Engine
from twhin_core.progress import log
from twhin_core.sizes import count_of


def count_degrees(edges: ir.Table) -> ir.Table:
    """All nodes of `edges`: table, index, `ends` (of all edges at the node) and `degree` (of training edges only).

    An edge from a node to itself counts twice.
    """
    in_train = (edges.split == "train").fill_null(False).cast("int64")
    lhs = edges.select(table=edges.lhs_table, index=edges.lhs, in_train=in_train)
    rhs = edges.select(table=edges.rhs_table, index=edges.rhs, in_train=in_train)
    both = lhs.union(rhs)
    return both.group_by("table", "index").agg(ends=both.count(), degree=both.in_train.sum().cast("int64"))


def without(edges: ir.Table, nodes: ir.Table) -> ir.Table:
    """The edges without an end in `nodes` (table, index)."""
    edges = edges.anti_join(nodes.select(lhs_table="table", lhs="index"), ["lhs_table", "lhs"])
    return edges.anti_join(nodes.select(rhs_table="table", rhs="index"), ["rhs_table", "rhs"])


def at(edges: ir.Table, nodes: ir.Table) -> ir.Table:
    """The edges with an end in `nodes`."""
    lhs, rhs = nodes.select(lhs_table="table", lhs="index"), nodes.select(rhs_table="table", rhs="index")
    at_lhs = edges.semi_join(lhs, ["lhs_table", "lhs"])
    only_at_rhs = edges.anti_join(lhs, ["lhs_table", "lhs"]).semi_join(rhs, ["rhs_table", "rhs"])
    return at_lhs.union(only_at_rhs)


def find_low_degree_nodes(engine: Engine, edges: ir.Table, minimum: dict[str, int], rounds: int | None) -> ir.Table:
    """The nodes (table, index) to remove so that the others have at least their table's `minimum` of edges.

    Removing a node removes its edges, which can leave other nodes with too few. So this repeats until no node has too
    few, or `rounds` times.
    """
    nodes, count = None, 0
    for round_ in itertools.count(1) if rounds is None else range(1, rounds + 1):
        degrees = count_degrees(edges if nodes is None else without(edges, nodes))
        least = ibis.cases(*((degrees.table == table, degree) for table, degree in minimum.items()), else_=0)
        found = degrees.filter(degrees.ends < least).select("table", "index")
        nodes = engine.keep("low_degree_nodes", found if nodes is None else nodes.union(found))
        before, count = count, int(nodes.count().execute())
        log.info("prepare: %s with too few edges (round %d)", count_of(count, "node"), round_)
        if count == before:
            break
    assert nodes is not None
    return nodes
