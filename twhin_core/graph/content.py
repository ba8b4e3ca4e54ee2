"""The content of nodes: the rows to keep, one for each node, with the numbers of their categories.

Ibis expressions that all engines evaluate identically.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from twhin_core.config.sources import ContentSource
from twhin_core.errors import UserError
from twhin_core.graph.blocked import find_blocked
from twhin_core.graph.changes import entries_of
from twhin_core.graph.content_entry import ContentEntry
from twhin_core.graph.engine import Engine
from twhin_core.graph.forgotten import Blocked
from twhin_core.graph.raw_files import RawSource
from twhin_core.graph.rows import MAX_ID_SIZE, bit_length
from twhin_core.progress import log
from twhin_core.sizes import count_of

RARE = 5
"""Values of a category with fewer nodes share one number."""
MOST_VALUES = 65_536
"""Of all categories of a table; those with the most nodes get numbers of their own."""
PLAIN = ("id", "vector", "categories")

CATEGORIES_SCHEMA = pa.schema(
    [("code", pa.int32()), ("category", pa.string()), ("value", pa.string()), ("nodes", pa.int64())]
)


@dataclass(frozen=True)
class Content:
    """The content of a table's nodes.

    `rows`: id and the columns of `stored_fields`, a row for each node; `values`: code, name, value, nodes: what the
    numbers stand for, `name` being the column; `entry`: what is known before the nodes are; `given`: id of the nodes
    that were in the files, if any was read.
    """

    rows: ir.Table
    values: ir.Table | None
    entry: ContentEntry
    given: ir.Table | None = None


@dataclass(frozen=True)
class Before:
    """The content of the graph at `root`. `rows`: id, vector and categories, the latter as in `CONTENT_SCHEMA`."""

    rows: ir.Table
    entry: ContentEntry
    root: str


def stored_fields(entry: ContentEntry, vector: pa.DataType) -> list[pa.Field]:
    """The columns of content in `graph/features/`: vector, code_0: int32 …, rare_0: string …, whichever there are.

    `rare_0` has the values that share a number, so that the next version may give them their own.
    """
    of = range(len(entry.categories))
    return [
        *([pa.field("vector", vector)] if entry.dim else []),
        *(pa.field(f"code_{at}", pa.int32()) for at in of),
        *(pa.field(f"rare_{at}", pa.string()) for at in of),
    ]


def plan_content(
    engine: Engine, sources: list[RawSource], blocked: Blocked | None, before: Mapping[str, Before]
) -> dict[str, Content]:
    """The content by table. Logs the rows that it leaves out.

    `before`: by table, what nodes keep that have no row in `sources`.

    Raises:
        UserError: the files of a table have no row with content, or vectors of another length than before.
    """
    found = {}
    for number, raw in enumerate(sources):
        assert raw.source.relation is not None
        found[raw.source.relation] = _plan(engine, raw, number, blocked, before.get(raw.source.relation))
    return found


def nodes_of(content: Mapping[str, Content]) -> ir.Table | None:
    """The nodes (table, id) with content in the files, if any."""
    tables = [
        of.given.select("id", table=ibis.literal(table)).select("table", "id")
        for table, of in content.items()
        if of.given is not None
    ]
    return functools.reduce(lambda one, other: one.union(other), tables) if tables else None


def _plan(engine: Engine, raw: RawSource, number: int, blocked: Blocked | None, before: Before | None) -> Content:
    source, given, rejected = raw.source, None, dict[str, int]()
    assert isinstance(source, ContentSource)
    dim = 0 if before is None else before.entry.dim
    if raw.files:
        given = engine.keep(f"content_{number}_raw", engine.read([raw]))
        dim = _find_dim(given, source, before) if source.vector is not None else 0
        given, rejected = _usable(engine, given, source, number, dim, blocked)
    rows = _joined(given, before)
    values = None
    if source.categories:
        values = engine.keep(f"content_{number}_values", _number_values(rows, source.categories))
        coded = _with_codes(rows, values, source.categories)
    else:
        coded = rows
    columns = {"vector": coded.vector.cast("array<float32>")} if dim else {}
    columns |= {
        f"{kind}_{at}": coded[f"{kind}_{at}"] for kind in ("code", "rare") for at in range(len(source.categories))
    }
    earlier = {} if before is None else {file.path: file for file in before.entry.raw_files}
    return Content(
        rows=engine.keep(f"content_{number}", coded.select(id=coded.id, **columns)),
        values=values,
        entry=ContentEntry(
            dim=dim,
            column=source.vector,
            scale=_scale(rows) if dim else 1.0,
            categories=source.categories,
            values=0 if values is None else int(values.count().execute()),
            rejected=rejected,
            raw_files=list({**earlier, **{file.path: file for file in entries_of([raw])}}.values()),
        ),
        given=given,
    )


def _usable(
    engine: Engine, rows: ir.Table, source: ContentSource, number: int, dim: int, blocked: Blocked | None
) -> tuple[ir.Table, dict[str, int]]:
    """One row for each node: id, vector and categories, and how many others were left out, by reason."""
    checked = rows.mutate(reason=_reason(rows, dim))
    checked = engine.keep(f"content_{number}_checked", _with_repeats(checked, dim, len(source.categories)))
    rejected = _count_rejected(checked, source)
    kept = checked.filter(checked.reason.isnull()).select(*PLAIN)
    if blocked is not None:
        assert source.relation is not None
        names = kept.select("id", table=ibis.literal(source.relation))
        kept = kept.anti_join(engine.keep(f"content_{number}_blocked", find_blocked(names, blocked)), "id")
    if not int(kept.count().execute()):
        raise UserError(f"{source.key}: {source.path} has no usable row; left out: {rejected or 'none'}")
    return kept, rejected


def _joined(given: ir.Table | None, before: Before | None) -> ir.Table:
    """What the files say of their nodes, and the graph before of all others."""
    if before is None:
        assert given is not None
        return given
    rows = before.rows.select(*PLAIN)
    return rows if given is None else rows.anti_join(given, "id").union(given)


def _find_dim(rows: ir.Table, source: ContentSource, before: Before | None) -> int:
    """The length of most vectors; of several, the greatest. Raises UserError if it was another before."""
    lengths = rows.filter(rows.vector.notnull()).select(length=rows.vector.length())
    counted = lengths.group_by("length").agg(count=lengths.count()).to_pyarrow().to_pylist()
    dim = max(((row["count"], row["length"]) for row in counted), default=(0, 0))[1]
    if not dim:
        raise UserError(f"{source.key}.column: {source.path} has no row with a vector in {source.vector!r}")
    if before is not None and dim != before.entry.dim:
        raise UserError(
            f"{source.key}.column: vectors in {source.vector!r} of {source.path} have {dim} numbers, in {before.root} "
            f"{before.entry.dim}; those of another model need a column of another name"
        )
    return int(dim)


def _reason(rows: ir.Table, dim: int) -> ir.StringValue:
    """Why a row is left out; null if it is not."""
    reasons = [(rows.id.isnull(), "null_id"), (bit_length(rows.id) > 8 * MAX_ID_SIZE, "long_id")]
    if dim:
        most = float(np.finfo(np.float32).max)
        finite = rows.vector.filter(lambda value: value.between(-most, most))
        reasons += [
            (rows.vector.isnull(), "null_vector"),
            (rows.vector.length() != dim, "wrong_length"),
            (finite.length() != dim, "not_finite"),
        ]
    return ibis.cases(*reasons).cast("string")


def _with_repeats(rows: ir.Table, dim: int, categories: int) -> ir.Table:
    """Of several rows of a node, keeps the least."""
    order = [rows.vector] if dim else []
    order += [rows.categories[at].fill_null("") for at in range(categories)]
    is_good = rows.reason.isnull()
    number = ibis.row_number().over(group_by=[rows.id, is_good], order_by=order)
    rows = rows.mutate(number=number)
    is_repeat = rows.reason.isnull() & (rows.number > 0)
    return rows.mutate(reason=is_repeat.ifelse(ibis.literal("repeated_id"), rows.reason)).drop("number")


def _count_rejected(rows: ir.Table, source: ContentSource) -> dict[str, int]:
    bad = rows.filter(rows.reason.notnull())
    counted = bad.group_by("reason").agg(count=bad.count(), id=bad.id.min(), file=bad.file.min()).order_by("reason")
    found = counted.to_pyarrow().to_pylist()
    for row in found:
        at = row["file"] if row["id"] is None else f"id {row['id']!r} in {row['file']}"
        rows_of = count_of(row["count"], "row")
        log.warning("prepare: %s: left out %s: %s, such as %s", source.key, rows_of, row["reason"], at)
    return {row["reason"]: row["count"] for row in found}


def _scale(rows: ir.Table) -> float:
    """What makes the vectors' mean square 1 when they are multiplied by it, as a power of two, which rounds nothing."""
    square = rows.vector.map(lambda value: value * value).sums().mean().execute()
    return 2.0 ** -round(math.log2(square) / 2) if square else 1.0


def _number_values(rows: ir.Table, categories: list[str]) -> ir.Table:
    """The values with their numbers: code, category, value, nodes. A null value stands for all rare ones."""
    each = [
        rows.select(category=ibis.literal(at, type="int32"), value=rows.categories[at]) for at in range(len(categories))
    ]
    given = functools.reduce(lambda one, other: one.union(other), each)
    given = given.filter(given.value.notnull())
    counts = given.group_by("category", "value").agg(nodes=given.count())
    place = ibis.row_number().over(order_by=[counts.nodes.desc(), counts.category, counts.value])
    counts = counts.mutate(is_rare=(counts.nodes < RARE) | (place >= MOST_VALUES))
    rare = ibis.memtable(
        {"category": np.arange(len(categories), dtype=np.int32), "value": [None] * len(categories)},
        schema={"category": "int32", "value": "string"},
    )
    together = counts.filter(counts.is_rare).group_by("category").agg(nodes=counts.nodes.sum())
    rare = rare.left_join(together, "category").select("category", "value", "nodes")
    rare = rare.mutate(nodes=rare.nodes.fill_null(0).cast("int64"))
    whole = rare.union(counts.filter(~counts.is_rare).select("category", "value", "nodes"))
    code = ibis.row_number().over(order_by=[whole.value.notnull(), whole.category, whole.value])
    names = ibis.cases(*((whole.category == at, name) for at, name in enumerate(categories)))
    return whole.mutate(code=(code + 1).cast("int32"), name=names)


def _with_codes(rows: ir.Table, values: ir.Table, categories: list[str]) -> ir.Table:
    """Adds the number of each category's value, 0 if it is null, and the value if it shares its number."""
    for at in range(len(categories)):
        own = values.filter((values.category == at) & values.value.notnull()).select(given="value", own="code")
        rare = 1 + at
        joined = rows.mutate(given=rows.categories[at])
        joined = joined.left_join(own, "given").select(*joined.columns, "own")
        code = ibis.cases((joined.given.isnull(), 0), (joined.own.isnull(), rare), else_=joined.own)
        shared = joined.own.isnull().ifelse(joined.given, ibis.null("string"))
        rows = joined.mutate(**{f"code_{at}": code.cast("int32"), f"rare_{at}": shared}).drop("given", "own")
    return rows
