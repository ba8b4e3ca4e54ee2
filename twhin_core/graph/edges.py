"""Turns rows into encoded edges: encodes ids as indices, merges repeats, and decodes rejected rows.

Ibis expressions that all engines evaluate identically. The `lhs` and `rhs` of an encoded edge are indices of nodes in
its `lhs_table` and `rhs_table`; (lhs, rel, rhs) is unique once repeats are merged.
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
SUM_UNITS = 2**36  # units per largest weight: weights are summed as integers, so that their order does not matter


def encode(rows: ir.Table, nodes: ir.Table, seed: int) -> ir.Table:
    """The rows with node indices instead of ids, and the `hash` that orders the edges.

    `rows` are from `rows.with_reasons`, `nodes` from `vocabulary.number_nodes`.
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
    """The edges (lhs, rel, rhs) that occur in several of `rows`."""
    groups = rows.group_by(*EDGE).agg(rows=rows.count())
    return groups.filter(groups.rows > 1).select(*EDGE)


def collapse(
    rows: ir.Table, repeats: Literal["first", "last", "count", "sum"], known: ir.Table | None = None
) -> ir.Table:
    """Picks one row per edge: its `reason` is null, and its weight that of the edge. The others get a reason.

    The row is from the first split that has the edge (train, validation, test). Within it, it is the earliest, or the
    latest with `last`; the heaviest row breaks ties. Other rows of that split are `merged` if the weight includes them,
    and all remaining rows are `duplicate`. Since this sorts, pass only the rows of repeated edges.

    `known`: edges (lhs, rel, rhs, split_before) of an earlier graph, which stay in their split.
    """
    columns = [name for name in rows.columns if name != "reason"]
    edge = [ibis._[name] for name in EDGE]
    if known is not None:
        rows = rows.left_join(known, EDGE).select(*columns, "split_before")
    stays = [] if known is None else [(rows.split == rows.split_before, -1)]
    ranks = [(rows.split == split, rank) for rank, split in enumerate(SPLITS)]
    rows = rows.mutate(rank=ibis.cases(*stays, *ranks, else_=0))
    time = rows.time.desc(nulls_first=False) if repeats == "last" else rows.time.asc(nulls_first=False)
    order = [rows["rank"], time, rows.weight.desc(), rows.source, rows.file]
    rows = rows.mutate(copy=ibis.row_number().over(group_by=edge, order_by=order))
    if repeats in ("first", "last"):
        reason = ibis.cases((rows.copy > 0, "duplicate"))
    else:
        first_rank = rows["rank"].min().over(group_by=edge)
        rows = _with_merged_weight(rows.mutate(merged=(rows.copy > 0) & (rows["rank"] == first_rank)), repeats)
        too_heavy = rows.weight > float(np.finfo(np.float32).max)  # weights are written as float32
        reason = ibis.cases((rows.merged, "merged"), (rows.copy > 0, "duplicate"), (too_heavy, "invalid_weight"))
    return rows.select(*columns, reason=reason.cast("string"))


def _with_merged_weight(rows: ir.Table, repeats: str) -> ir.Table:
    """Sets each weight to the sum of those of the rows with the same edge and split."""
    same = [ibis._[name] for name in (*EDGE, "split")]
    if repeats == "count":
        return rows.mutate(weight=rows.weight.sum().over(group_by=same).cast("float64"))  # 1 each, or an earlier count
    rows = rows.mutate(largest=rows.weight.max().over(group_by=same))
    units = (rows.weight / rows.largest * SUM_UNITS + 0.5).floor().cast("int64")
    rows = rows.mutate(units=units.sum().over(group_by=same).cast("int64"))
    return rows.mutate(weight=rows.largest * (rows.units.cast("float64") / SUM_UNITS))


def renumber(edges: ir.Table, nodes: ir.Table) -> ir.Table:
    """Replaces node indices in the edges: `nodes` has the table, the old index (`before`) and the new one (`index`)."""
    lhs = nodes.select(lhs_table="table", lhs="before", new_lhs="index")
    rhs = nodes.select(rhs_table="table", rhs="before", new_rhs="index")
    joined = edges.inner_join(lhs, ["lhs_table", "lhs"]).inner_join(rhs, ["rhs_table", "rhs"])
    return joined.select(**{name: joined[f"new_{name}" if name in ("lhs", "rhs") else name] for name in edges.columns})


def decoded(dropped: ir.Table, nodes: ir.Table, relations: list[Relation]) -> ir.Table:
    """Encoded rows with a `reason` as rejected rows: source (the file), lhs, relation, rhs and reason, all strings."""
    names = ibis.memtable(
        {"rel": np.arange(len(relations), dtype=np.int32), "relation": [relation.name for relation in relations]},
        schema={"rel": "int32", "relation": "string"},
    )
    lhs = nodes.select(lhs_table="table", lhs="index", lhs_id="id")
    rhs = nodes.select(rhs_table="table", rhs="index", rhs_id="id")
    named = dropped.inner_join(lhs, ["lhs_table", "lhs"]).inner_join(rhs, ["rhs_table", "rhs"]).inner_join(names, "rel")
    return named.select(lhs="lhs_id", relation="relation", rhs="rhs_id", reason="reason", source="file")
