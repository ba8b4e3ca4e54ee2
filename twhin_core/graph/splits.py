"""Splits edges into train, validation and test.

Ibis expressions over encoded edges (see `edges`), which all engines evaluate identically.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from twhin_core.config import Relation
from twhin_core.config.prepare import Split
from twhin_core.config.relation import negative_relations
from twhin_core.graph.hashes import below
from twhin_core.graph.manifest import NEGATIVES

PROBES = 15  # values that a pass counts at; each pass narrows the range to a sixteenth


def with_splits(edges: ir.Table, split: Split | None, relations: list[Relation]) -> ir.Table:
    """Sets the column `split` by hash, by time or to the last edges of each lhs. None keeps the sources' splits.

    Explicit negatives are split by themselves, into splits whose names begin with `NEGATIVES`. `relations` in the order
    of ids.
    """
    names = negative_relations(relations)
    if not names:
        return _of_relations(edges, split, relations)
    is_negative = edges.rel.isin([rel for rel, relation in enumerate(relations) if relation.name in names])
    positives, negatives = (_of_relations(edges.filter(of), split, relations) for of in (~is_negative, is_negative))
    negatives = negatives.mutate(split=ibis.literal(NEGATIVES) + negatives.split.fill_null("train"))
    return positives.select(*edges.columns).union(negatives.select(*edges.columns))


def _of_relations(edges: ir.Table, split: Split | None, relations: list[Relation]) -> ir.Table:
    if split is None:
        return edges
    if split.relations is None:
        return _with_splits(edges, split)
    chosen = edges.rel.isin([rel for rel, relation in enumerate(relations) if relation.name in split.relations])
    others = edges.filter(~chosen).mutate(split=ibis.literal("train"))
    return _with_splits(edges.filter(chosen), split).select(*edges.columns).union(others.select(*edges.columns))


def _with_splits(edges: ir.Table, split: Split) -> ir.Table:
    if split.by == "last":
        return _last_of_lhs(edges, int(split.validation), int(split.test))
    shares = split.test, split.test + split.validation
    if split.by == "hash":
        in_test, held_out = (below(edges.hash, share) for share in shares)
    else:
        count = int(edges.count().execute())
        in_test, held_out = (_latest(edges.time, share, count) for share in shares)
    return edges.mutate(split=ibis.cases((in_test, "test"), (held_out, "validation"), else_="train"))


def _last_of_lhs(edges: ir.Table, validation: int, test: int) -> ir.Table:
    """Holds out each lhs's latest `test` edges, of any relation, and the `validation` before, but never its earliest.

    Among edges with the same time, a lower hash counts as later.
    """
    lhs = [edges.lhs_table, edges.lhs]
    order = [edges.time.desc(), edges.hash, edges.rel, edges.rhs]
    edges = edges.mutate(
        after=ibis.row_number().over(group_by=lhs, order_by=order), count=edges.count().over(group_by=lhs)
    )
    earliest = edges.after == edges["count"] - 1
    split = ibis.cases(
        (earliest, "train"),
        (edges.after < test, "test"),
        (edges.after < test + validation, "validation"),
        else_="train",
    )
    return edges.mutate(split=split).drop("after", "count")


def _latest(time: ir.IntegerColumn, share: float, count: int) -> ir.BooleanValue:
    """Whether an edge is in the latest `share` of all `count` edges. Ties at the boundary are all excluded."""
    latest = int(share * count + 1e-6)  # 0.29 * 100 must not become 28
    return time > _nth_largest(time, latest + 1) if latest else ibis.literal(False)


def _nth_largest(values: ir.IntegerColumn, n: int) -> int:
    """The exact n-th largest value, by a search with counting passes instead of a sort of all values."""
    table = values.as_table()
    values = table[values.get_name()]
    ends: dict[str, int] = table.agg(low=values.min(), high=values.max()).to_pyarrow().to_pylist()[0]
    too_low, high = ends["low"] - 1, ends["high"]  # too_low < result <= high
    while high - too_low > 1:
        probes = sorted({too_low + (high - too_low) * step // (PROBES + 1) for step in range(1, PROBES + 1)})
        probes = [probe for probe in probes if too_low < probe < high]
        above = {f"above_{i}": (values > probe).cast("int64").sum() for i, probe in enumerate(probes)}
        counts = table.agg(**above).to_pyarrow().to_pylist()[0]
        for i, probe in enumerate(probes):
            if counts[f"above_{i}"] >= n:
                too_low = probe
            else:
                high = probe
                break
    return high
