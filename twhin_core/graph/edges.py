"""From rows to edges: which rows are rejected and why, which split an edge belongs to, and its numbers.

Ibis expressions over the columns of `sources.read_sources`, so that another engine can run them.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import numpy as np

from twhin_core.config import Relation
from twhin_core.config_prepare import Split
from twhin_core.graph.manifest import SPLITS

ORDER_DIGITS = 12  # of the edge's hash: 48 bits, and DuckDB keeps strings of 12 bytes in place


def find_relations(rows: ir.Table, relations: list[Relation]) -> list[Relation]:
    """The relations in the order of their ids: `*` gives way to every value that has no entry, sorted by name."""
    if all(relation.name != "*" for relation in relations):
        return relations
    values = rows.filter(rows.relation.notnull()).select("relation").distinct().to_pyarrow()["relation"].to_pylist()
    others = sorted(set(values) - {relation.name for relation in relations})
    found = []
    for relation in relations:
        names = others if relation.name == "*" else [relation.name]
        found += [relation.model_copy(update={"name": name}) for name in names]
    return found


def with_reasons(rows: ir.Table, relations: list[Relation], needs_time: bool) -> ir.Table:
    """Adds rel: int32, lhs_table and rhs_table, and `reason`: why a row by itself cannot be an edge, else null."""
    known = ibis.memtable(
        {
            "name": [relation.name for relation in relations],
            "rel": np.arange(len(relations), dtype=np.int32),
            "lhs_table": [relation.lhs for relation in relations],
            "rhs_table": [relation.rhs for relation in relations],
        },
        schema={"name": "string", "rel": "int32", "lhs_table": "string", "rhs_table": "string"},
    )
    rows = rows.left_join(known, rows.relation == known.name).drop("name")
    fp32 = np.finfo(np.float32)
    positive = rows.weight.between(float(fp32.smallest_normal), float(fp32.max)).fill_null(False)
    reason = ibis.cases(
        (rows.lhs.isnull() | rows.rhs.isnull(), "null_id"),
        (rows.rel.isnull(), "unknown_relation"),
        (~positive, "invalid_weight"),
        (rows.time.isnull() & ibis.literal(needs_time), "null_timestamp"),
    )
    return rows.mutate(reason=reason.cast("string"))


def with_copies(rows: ir.Table, seed: int) -> ir.Table:
    """Adds `hash`, which splits and orders the edges, and `copy`: 0 for the row that stands for its edge, 1 … after.

    Of the rows of an edge, the one of the first split stands for it (train before validation before test), then the
    earliest, then the heaviest.
    """
    edge = ibis.literal("\t").join([ibis.literal(str(seed)), rows.lhs, rows.relation, rows.rhs])
    rank = ibis.cases(*((rows.split == split, position) for position, split in enumerate(SPLITS)), else_=0)
    copy = ibis.row_number().over(
        group_by=[rows.lhs, rows.relation, rows.rhs],
        order_by=[rank, rows.time.asc(nulls_first=False), rows.weight.desc(), rows.source, rows.file],
    )
    return rows.mutate(hash=edge.hexdigest("md5").substr(0, ORDER_DIGITS), copy=copy)


def with_splits(edges: ir.Table, split: Split | None) -> ir.Table:
    """Fills `split`: by hash, by time, or, where the setting is None, as the sources gave it."""
    if split is None:
        return edges
    shares = split.test, split.test + split.validation
    if split.by == "hash":
        in_test, held_out = (edges.hash < _digits(share) for share in shares)
    else:
        count = int(edges.count().execute())
        in_test, held_out = (_latest(edges.time, share, count) for share in shares)
    return edges.mutate(split=ibis.cases((in_test, "test"), (held_out, "validation"), else_="train"))


def _digits(share: float) -> str:
    """The hash below which that share of all hashes lies."""
    return f"{round(share * 16**ORDER_DIGITS):0{ORDER_DIGITS}x}"


def _latest(time: ir.Column, share: float, count: int) -> ir.BooleanValue:
    """Whether an edge is among the latest `share` of all `count`; one no later than an edge outside it is not."""
    latest = int(share * count + 1e-6)  # 0.29 * 100 must not become 28
    if latest == 0:
        return ibis.literal(False)
    between_neighbours = (count - latest - 0.5) / (count - 1)
    return time > time.quantile(between_neighbours).as_scalar()


def encode(edges: ir.Table, vocabulary: ir.Table) -> ir.Table:
    """The edges in numbers: lhs, rel, rhs, weight as they are written, with their `split` and `hash`."""
    lhs = vocabulary.select(lhs_table="table", lhs="id", lhs_index="index")
    rhs = vocabulary.select(rhs_table="table", rhs="id", rhs_index="index")
    joined = edges.inner_join(lhs, ["lhs_table", "lhs"]).inner_join(rhs, ["rhs_table", "rhs"])
    return joined.select(
        lhs=joined.lhs_index,
        rel=joined.rel,
        rhs=joined.rhs_index,
        weight=joined.weight.cast("float32"),
        split=joined.split,
        hash=joined.hash,
    )


def rejected_rows(rows: ir.Table, copies: ir.Table) -> ir.Table:
    """What did not become an edge: source: the file, lhs, relation, rhs and reason, all strings."""
    unsound = rows.filter(rows.reason.notnull())
    duplicates = copies.filter(copies.copy > 0).mutate(reason=ibis.literal("duplicate"))
    columns = {"source": "file", "lhs": "lhs", "relation": "relation", "rhs": "rhs", "reason": "reason"}
    return unsound.select(**columns).union(duplicates.select(**columns))
