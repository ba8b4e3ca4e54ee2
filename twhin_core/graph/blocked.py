"""Keeps forgotten nodes out of a graph: their rows, and what the graph before still holds of them.

Ibis expressions that all engines evaluate identically.
"""

from __future__ import annotations

from dataclasses import replace

import ibis
import ibis.expr.types as ir

from twhin_core.config import Relation
from twhin_core.graph.degrees import at, count_degrees
from twhin_core.graph.edges import EDGE
from twhin_core.graph.engine import Engine
from twhin_core.graph.forgotten import REASON, Blocked
from twhin_core.graph.grow import Before
from twhin_core.graph.reverses import in_order
from twhin_core.graph.vocabulary import find_nodes

NO_TABLE = ""
"""Stands for the unknown table of a row whose relation is unknown."""


def find_blocked(nodes: ir.Table, blocked: Blocked) -> ir.Table:
    """Those of `nodes` (table, id) that are blocked. A node of `NO_TABLE` is, if it is in any table."""
    pairs = [(table, digest) for table, digests in blocked.hashes.items() for digest in digests]
    listed = ibis.memtable(
        {"table": [table for table, _ in pairs], "hash": [digest for _, digest in pairs]},
        schema={"table": "string", "hash": "string"},
    )
    nodes = nodes.filter(nodes.id.notnull())
    nodes = nodes.mutate(hash=(ibis.literal(blocked.salt) + nodes.id).hexdigest("sha256"))
    named = nodes.semi_join(listed, ["table", "hash"])
    untold = nodes.filter(nodes.table == NO_TABLE).semi_join(listed, "hash")
    return named.union(untold).select("table", "id")


def without_names(engine: Engine, rows: ir.Table, blocked: Blocked) -> ir.Table:
    """Rows that name a blocked node get the reason `forgotten`, whatever theirs was, and lose both ids.

    `rows` have at least lhs, lhs_table, rhs, rhs_table and reason.
    """
    columns = list(rows.columns)
    rows = rows.mutate(lhs_in=rows.lhs_table.fill_null(NO_TABLE), rhs_in=rows.rhs_table.fill_null(NO_TABLE))
    nodes = find_nodes(rows.select("lhs", "rhs", lhs_table="lhs_in", rhs_table="rhs_in"))
    found = engine.keep("blocked", find_blocked(nodes, blocked))
    for side in ("lhs", "rhs"):
        ends = found.select(**{f"{side}_in": "table", side: "id", f"{side}_blocked": ibis.literal(True)})
        rows = rows.left_join(ends, [f"{side}_in", side]).select(*rows.columns, f"{side}_blocked")
    is_blocked = rows.lhs_blocked.fill_null(False) | rows.rhs_blocked.fill_null(False)
    nothing = ibis.null("string")
    rows = rows.mutate(
        reason=is_blocked.ifelse(ibis.literal(REASON), rows.reason),
        lhs=is_blocked.ifelse(nothing, rows.lhs),
        rhs=is_blocked.ifelse(nothing, rows.rhs),
    )
    return rows.select(*columns)


def without_nodes(engine: Engine, before: Before, blocked: Blocked, relations: list[Relation], origin: str) -> Before:
    """The earlier graph without the blocked nodes and their edges. Other nodes keep their indices.

    `origin`: the run root that stands for the source of edges that are rejected.
    """
    names = engine.keep("blocked_before", find_blocked(before.vocabulary.select("table", "id"), blocked))
    nodes = before.vocabulary.semi_join(names, ["table", "id"]).select("table", "index")
    nodes = engine.keep("gone_nodes", nodes)
    counts = nodes.group_by("table").agg(count=nodes.count()).to_pyarrow().to_pylist()
    if not counts:
        return before
    edges = engine.keep("gone_edges", at(before.with_tables(before.edges), nodes))
    less = count_degrees(edges).select("table", "index", less="degree")
    left = before.vocabulary.anti_join(nodes, ["table", "index"])
    joined = left.left_join(less, ["table", "index"]).select(*left.columns, "less")
    degree = joined.degree - joined.less.fill_null(0)
    rows = in_order(edges, before.vocabulary, relations) if any(of.symmetric for of in relations) else edges
    return replace(
        before,
        vocabulary=engine.keep("vocabulary_left", joined.mutate(degree=degree).select(*left.columns)),
        edges=engine.view("edges_left", before.edges.anti_join(edges.select(*EDGE), EDGE)),
        gaps={table: count + _new(counts, table) for table, count in before.gaps.items()},
        gone=nodes,
        rejected=engine.keep("gone_rows", _rejected(rows, relations, origin)),
    )


def _new(counts: list[dict[str, object]], table: str) -> int:
    return sum(int(str(row["count"])) for row in counts if row["table"] == table)


def _rejected(edges: ir.Table, relations: list[Relation], origin: str) -> ir.Table:
    """Edges as rejected rows, as `edges.decoded` returns them, without ids."""
    names = ibis.memtable(
        {"rel": list(range(len(relations))), "relation": [relation.name for relation in relations]},
        schema={"rel": "int32", "relation": "string"},
    )
    return edges.inner_join(names, "rel").select(
        lhs=ibis.null("string"), relation="relation", rhs=ibis.null("string"), reason=ibis.literal(REASON),
        source=ibis.literal(origin),
    )  # fmt: skip
