"""From rows to edges: in numbers, one for all rows that repeat it, and the rejected rows in names again.

Ibis expressions that every engine runs alike. An edge's `lhs` and `rhs` are numbers of nodes within its `lhs_table`
and `rhs_table`; (lhs, rel, rhs) is unique once repeats are gone.
"""

from __future__ import annotations

from typing import Literal

import ibis
import ibis.expr.types as ir
import numpy as np

from twhin_core.config import Relation
from twhin_core.graph.hashes import edge_hash
from twhin_core.graph.manifest import SPLITS

EDGE = ("lhs", "rel", "rhs")
SUM_UNITS = 2**36  # of the largest weight of an edge: repeats are added up in integers, which have no order


def encode(rows: ir.Table, nodes: ir.Table, seed: int) -> ir.Table:
    """The rows with their nodes' numbers, and the `hash` that orders the edges.

    `rows` as `rows.with_reasons` gives them, `nodes` as `vocabulary.number_nodes` does.
    """
    lhs = nodes.select(lhs_table="table", lhs="id", lhs_index="index")
    rhs = nodes.select(rhs_table="table", rhs="id", rhs_index="index")
    joined = rows.inner_join(lhs, ["lhs_table", "lhs"]).inner_join(rhs, ["rhs_table", "rhs"])
    return joined.select(
        "lhs_table",
        "rel",
        "rhs_table",
        "weight",
        "time",
        "split",
        "file",
        "source",
        lhs=joined.lhs_index,
        rhs=joined.rhs_index,
        hash=edge_hash(joined, seed, "order"),
    )


def find_repeats(rows: ir.Table) -> ir.Table:
    """The edges that several of `rows` have, as (lhs, rel, rhs)."""
    groups = rows.group_by(*EDGE).agg(rows=rows.count())
    return groups.filter(groups.rows > 1).select(*EDGE)


def collapse(rows: ir.Table, repeats: Literal["first", "last", "count", "sum"]) -> ir.Table:
    """Adds `reason`: null for the row that stands for its edge, and gives that row the weight of all of them.

    It sorts, so it is for the rows of repeated edges; a row that is alone stands for its edge as it is.

    Of the rows of an edge, one of the first split stands for it (train before validation before test), then the
    earliest, or with `last` the latest, then the heaviest. Others of that split are `merged` where they count in the
    weight, and all else is `duplicate`.
    """
    columns = [name for name in rows.columns if name != "reason"]
    edge = [ibis._[name] for name in EDGE]
    rows = rows.mutate(rank=ibis.cases(*((rows.split == split, rank) for rank, split in enumerate(SPLITS)), else_=0))
    time = rows.time.desc(nulls_first=False) if repeats == "last" else rows.time.asc(nulls_first=False)
    order = [rows["rank"], time, rows.weight.desc(), rows.source, rows.file]
    rows = rows.mutate(copy=ibis.row_number().over(group_by=edge, order_by=order))
    if repeats in ("first", "last"):
        reason = ibis.cases((rows.copy > 0, "duplicate"))
    else:
        first_rank = rows["rank"].min().over(group_by=edge)
        rows = _with_joint_weight(rows.mutate(merged=(rows.copy > 0) & (rows["rank"] == first_rank)), repeats)
        too_heavy = rows.weight > float(np.finfo(np.float32).max)  # together, for the float32 that is written
        reason = ibis.cases((rows.merged, "merged"), (rows.copy > 0, "duplicate"), (too_heavy, "invalid_weight"))
    return rows.select(*columns, reason=reason.cast("string"))


def _with_joint_weight(rows: ir.Table, repeats: str) -> ir.Table:
    """Each row with the number of rows of its edge and split as its weight, or with the sum of their weights."""
    same = [ibis._[name] for name in (*EDGE, "split")]
    if repeats == "count":
        return rows.mutate(weight=rows.count().over(group_by=same).cast("float64"))
    rows = rows.mutate(largest=rows.weight.max().over(group_by=same))
    units = (rows.weight / rows.largest * SUM_UNITS + 0.5).floor().cast("int64")
    rows = rows.mutate(units=units.sum().over(group_by=same).cast("int64"))
    return rows.mutate(weight=rows.largest * (rows.units.cast("float64") / SUM_UNITS))


def renumber(edges: ir.Table, nodes: ir.Table) -> ir.Table:
    """The edges with their nodes' new numbers: `nodes` has table, `before` and index, and holds all of theirs."""
    lhs = nodes.select(lhs_table="table", lhs="before", new_lhs="index")
    rhs = nodes.select(rhs_table="table", rhs="before", new_rhs="index")
    joined = edges.inner_join(lhs, ["lhs_table", "lhs"]).inner_join(rhs, ["rhs_table", "rhs"])
    return joined.select(**{name: joined[f"new_{name}" if name in ("lhs", "rhs") else name] for name in edges.columns})


def rejected_rows(unsound: ir.Table, dropped: ir.Table, nodes: ir.Table, relations: list[Relation]) -> ir.Table:
    """What did not become an edge: source: the file, lhs, relation, rhs and reason, all strings.

    `unsound` are rows by name, `dropped` are rows by number, both with their `reason`.
    """
    names = ibis.memtable(
        {"rel": np.arange(len(relations), dtype=np.int32), "relation": [relation.name for relation in relations]},
        schema={"rel": "int32", "relation": "string"},
    )
    lhs = nodes.select(lhs_table="table", lhs="index", lhs_id="id")
    rhs = nodes.select(rhs_table="table", rhs="index", rhs_id="id")
    named = dropped.inner_join(lhs, ["lhs_table", "lhs"]).inner_join(rhs, ["rhs_table", "rhs"]).inner_join(names, "rel")
    return unsound.select("lhs", "relation", "rhs", "reason", source="file").union(
        named.select(lhs="lhs_id", relation="relation", rhs="rhs_id", reason="reason", source="file")
    )
