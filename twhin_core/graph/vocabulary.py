"""Assigns indices to nodes by the hash of their ids.

A global row number would collect all nodes in one sorted list. Instead, nodes are grouped into buckets by the first
digits of their hash and numbered within their bucket; each bucket starts where the previous one ends. So buckets can be
numbered on different machines. Hash order also spreads frequent nodes evenly over the rows of a table.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

BUCKET_DIGITS = 3  # 16^3 = 4,096 buckets per table


def find_nodes(rows: ir.Table) -> ir.Table:
    """The distinct nodes (table, id) of `rows`, which have lhs, lhs_table, rhs and rhs_table, all strings."""
    lhs = rows.select(table=rows.lhs_table, id=rows.lhs)
    rhs = rows.select(table=rows.rhs_table, id=rows.rhs)
    return lhs.union(rhs).distinct()


def number_nodes(nodes: ir.Table) -> ir.Table:
    """Adds `index`: int64, 0 … n - 1 in each table, to nodes (table, id, …), ordered by MD5 of the id, then by id."""
    columns = list(nodes.columns)
    nodes = nodes.mutate(hash=nodes.id.hexdigest("md5"))
    nodes = nodes.mutate(bucket=nodes.hash.substr(0, BUCKET_DIGITS))

    within_bucket = ibis.row_number().over(group_by=[nodes.table, nodes.bucket], order_by=[nodes.hash, nodes.id])
    nodes = nodes.mutate(within_bucket=within_bucket)
    buckets = nodes.group_by("table", "bucket").agg(size=nodes.count())
    ends_at = buckets.size.sum().over(ibis.cumulative_window(group_by=buckets.table, order_by=buckets.bucket))
    buckets = buckets.mutate(starts_at=ends_at - buckets.size)

    numbered = nodes.join(buckets, ["table", "bucket"])
    return numbered.select(*columns, (numbered.starts_at + numbered.within_bucket).cast("int64").name("index"))


def find_labels(vocabulary: ir.Table, rows: ir.Table) -> ir.Table:
    """The labels of nodes: table, index, id, label. `rows` from id (lhs) to label (rhs), with the table as relation.

    Of several labels of a node, it takes the least.
    """
    given = rows.filter(rows.rhs.notnull()).group_by(table="relation", id="lhs").agg(label=rows.rhs.min())
    return vocabulary.inner_join(given, ["table", "id"]).select("table", "index", "id", "label")
