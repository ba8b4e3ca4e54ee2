"""The edges of an earlier graph that matter for the rows of new files.

Ibis expressions over encoded edges (see `edges`), which all engines evaluate identically.
"""

from __future__ import annotations

import functools

import ibis
import ibis.expr.types as ir

from twhin_core.config import Relation
from twhin_core.config.relation import negative_relations
from twhin_core.graph.contradictions import contrary
from twhin_core.graph.edges import EDGE
from twhin_core.graph.manifest import NEGATIVES
from twhin_core.graph.reverses import of_one_table

OLD = -1
"""The source of an edge of the earlier graph, among the positions of sources."""
SAME, REVERSE, CONTRARY = "same", "reverse", "contrary"


def find_near(old: ir.Table, rows: ir.Table, relations: list[Relation]) -> ir.Table:
    """The earlier edges that are `SAME` as one of `rows`, its `REVERSE` or `CONTRARY` to it, as the column `near` says.

    Those that are the same have the `row_hash` of the row, and are never contrary too. All at once, because the pass
    over all earlier edges is what takes time.
    """
    edges = rows.group_by(*EDGE).agg(row_hash=rows["hash"].max())
    keys = edges.mutate(near=ibis.literal(SAME))
    reverses = of_one_table(edges, relations).mutate(near=ibis.literal(REVERSE))
    found = [keys, reverses.rename(lhs="rhs", rhs="lhs").select(*keys.columns)]
    if negative_relations(relations):
        others = contrary(edges, relations).mutate(row_hash=ibis.null("string"), near=ibis.literal(CONTRARY))
        found.append(others.select(*keys.columns))
    all_ = functools.reduce(lambda one, other: one.union(other), found)
    return old.inner_join(all_, EDGE).drop("position")


def as_rows(near: ir.Table, origin: str, *, keeps_split: bool) -> ir.Table:
    """The edges of `find_near` that may change, as rows; without their split if the hash gives it anyhow."""
    found = near.filter(near.near != REVERSE)
    return found.mutate(
        hash=found.row_hash,
        split=found.split.replace(NEGATIVES, "") if keeps_split else ibis.null("string"),
        file=ibis.literal(origin),
        source=ibis.literal(OLD, type="int32"),
    ).drop("row_hash", "near")


def paired(near: ir.Table, new: ir.Table) -> ir.Table:
    """The `new` edges, and the earlier ones whose reverse is new: all pairs that were not in the earlier graph."""
    columns = (*EDGE, "split")
    old = near.filter(near.near == REVERSE).select(*columns)
    return new.select(*columns).union(old.semi_join(new.select("rel", lhs="rhs", rhs="lhs"), EDGE))
