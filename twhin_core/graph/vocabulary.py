"""The rows of the tables: every node gets a number by the hash of its id.

Numbering all nodes at once would need all of them in one sorted list. Instead, nodes fall into buckets by the first
digits of their hash, are numbered within their bucket, and each bucket starts where the one before it ends. Every
bucket can be numbered on another machine, and frequent nodes spread evenly over the rows of a table.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

BUCKET_DIGITS = 3  # 16^3 = 4,096 buckets a table


def number_nodes(edges: ir.Table) -> ir.Table:
    """Numbers the nodes of `edges`, which has columns lhs, lhs_table, rhs, rhs_table and split, all strings.

    Returns:
        A row a node: table: string; index: int64, 0 … n - 1 in each table, in the order of (md5 of the id, id);
        id: string; degree: int64, the ends of train edges at this node, so that what is held out does not show in it.
    """
    in_train = (edges.split == "train").cast("int64")
    lhs = edges.select(table=edges.lhs_table, id=edges.lhs, degree=in_train)
    rhs = edges.select(table=edges.rhs_table, id=edges.rhs, degree=in_train)
    ends = lhs.union(rhs)
    nodes = ends.group_by("table", "id").agg(degree=ends.degree.sum())
    nodes = nodes.mutate(hash=nodes.id.hexdigest("md5"))
    nodes = nodes.mutate(bucket=nodes.hash.substr(0, BUCKET_DIGITS))

    within_bucket = ibis.row_number().over(group_by=[nodes.table, nodes.bucket], order_by=[nodes.hash, nodes.id])
    nodes = nodes.mutate(within_bucket=within_bucket)
    buckets = nodes.group_by("table", "bucket").agg(size=nodes.count())
    ends_at = buckets.size.sum().over(ibis.cumulative_window(group_by=buckets.table, order_by=buckets.bucket))
    buckets = buckets.mutate(starts_at=ends_at - buckets.size)

    numbered = nodes.join(buckets, ["table", "bucket"])
    return numbered.select(
        "table",
        (numbered.starts_at + numbered.within_bucket).cast("int64").name("index"),
        "id",
        numbered.degree.cast("int64").name("degree"),
    )
