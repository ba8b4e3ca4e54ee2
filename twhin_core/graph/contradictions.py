"""Finds edges that are both positive and explicitly negative.

Ibis expressions over encoded edges (see `edges`), which all engines evaluate identically.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt

from twhin_core.config import Relation
from twhin_core.config.relation import negative_relations
from twhin_core.graph.edges import EDGE
from twhin_core.graph.engine import Engine


def settle(engine: Engine, rows: ir.Table, relations: list[Relation]) -> tuple[ir.Table, list[ir.Table]]:
    """The encoded rows without those of edges that lose to a contrary one, and apart those, with the `reason`."""
    if not negative_relations(relations):
        return rows, []
    lost = engine.keep("contradicted", contradicted(rows, relations))
    return engine.keep("consistent", rows.anti_join(lost, EDGE)), [lost]


def contradicted(rows: ir.Table, relations: list[Relation]) -> ir.Table:
    """The encoded rows of the edges that lose to a contrary one with the same ends, with the `reason`.

    The later wins: the edge with the latest row. The positive does if both are as late, or the time of either is
    unknown. `relations` in the order of ids.
    """
    pairs = _pairs(relations)
    of, holds = pairs.T
    table = ibis.memtable({"rel": of, "holds": holds}, schema={"rel": "int32", "holds": "int32"})
    latest = rows.filter(rows.rel.isin(np.unique(pairs).tolist()))
    latest = latest.group_by(*EDGE).agg(latest=latest.time.max())
    negatives = latest.select("lhs", "rhs", holds="rel", later="latest")
    both = latest.inner_join(table, "rel").inner_join(negatives, ["lhs", "rhs", "holds"])
    is_later = (both.later > both.latest).fill_null(False)
    positive = both.filter(is_later).select(*EDGE, reason=ibis.literal("later_negative"))
    negative = both.filter(~is_later).select("lhs", "rhs", rel="holds", reason=ibis.literal("also_positive"))
    lost = positive.union(negative.select(*positive.columns)).distinct()
    return rows.inner_join(lost, EDGE).select(*rows.columns, "reason")


def contrary(edges: ir.Table, relations: list[Relation]) -> ir.Table:
    """The edges (lhs, rel, rhs) that would contradict one of `edges`, which are unique, and are not among them."""
    pairs = _pairs(relations)
    rel, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    table = ibis.memtable({"rel": rel, "other": other}, schema={"rel": "int32", "other": "int32"})
    found = edges.inner_join(table, "rel").select("lhs", "rhs", rel="other").distinct()
    return found.select(*EDGE).anti_join(edges, EDGE)


def _pairs(relations: list[Relation]) -> npt.NDArray[np.int32]:
    """[pairs, 2] the numbers of the relations with negatives and of those that hold them."""
    number = {relation.name: rel for rel, relation in enumerate(relations)}
    pairs = [(rel, number[of.negatives.relation]) for rel, of in enumerate(relations) if of.negatives is not None]
    return np.array(pairs, np.int32)
