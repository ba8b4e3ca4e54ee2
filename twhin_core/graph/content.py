"""The content of nodes: the rows to keep, one for each node, with the numbers of their categories.

Ibis expressions that all engines evaluate identically.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from twhin_core.config.sources import ContentSource
from twhin_core.errors import UserError
from twhin_core.graph.blocked import find_blocked
from twhin_core.graph.content_entry import ContentEntry
from twhin_core.graph.earlier import Earlier
from twhin_core.graph.engine import Engine
from twhin_core.graph.forgotten import Blocked
from twhin_core.graph.raw_files import RawSource
from twhin_core.graph.rows import MAX_ID_SIZE, bit_length
from twhin_core.progress import log

RARE = 5
"""Values of a category with fewer nodes share one number."""
MOST_VALUES = 65_536
"""Of all categories of a table; those with the most nodes get numbers of their own."""


CATEGORIES_SCHEMA = pa.schema(
    [("code", pa.int32()), ("category", pa.string()), ("value", pa.string()), ("nodes", pa.int64())]
)


@dataclass(frozen=True)
class Content:
    """The content of a table's nodes.

    `rows`: id, vector: array<float32>, code_0 …: int32, a row for each node; `values`: code, name, value, nodes:
    what the numbers stand for, `name` being the column; `entry`: what is known before the nodes are.
    """

    rows: ir.Table
    values: ir.Table | None
    entry: ContentEntry

    @property
    def columns(self) -> list[str]:
        """Those of `rows` but the id."""
        codes = [f"code_{number}" for number in range(len(self.entry.categories))]
        return [*(["vector"] if self.entry.dim else []), *codes]


def plan_content(engine: Engine, sources: list[RawSource], blocked: Blocked | None) -> dict[str, Content]:
    """The content by table. Logs the rows that it leaves out.

    Raises:
        UserError: a table has no row with content.
    """
    found = {}
    for number, raw in enumerate(sources):
        assert raw.source.relation is not None
        found[raw.source.relation] = _plan(engine, raw, number, blocked)
    return found


def earlier_content(engine: Engine, earlier: Earlier, vocabulary: ir.Table) -> dict[str, Content]:
    """By table, what the earlier graph has of the nodes of `vocabulary`."""
    found = {}
    for number, of in enumerate(earlier.manifest.tables):
        if (entry := of.content) is None:
            continue
        codes = [(f"code_{at}", pa.int32()) for at in range(len(entry.categories))]
        vector = [("vector", pa.list_(pa.float32()))] if entry.dim else []
        schema = pa.schema([("index", pa.int64()), *vector, *codes])
        rows = engine.read_files(f"earlier_content_{number}", earlier.stored(entry.files), schema)
        nodes = vocabulary.filter(vocabulary.table == of.name).select("index", "id")
        columns = [name for name in schema.names if name != "index"]
        values = None
        if entry.names:
            values = engine.read_files(f"earlier_values_{number}", earlier.stored(entry.names), CATEGORIES_SCHEMA)
            values = values.rename(name="category")
        found[of.name] = Content(rows.inner_join(nodes, "index").select("id", *columns), values, entry)
    return found


def nodes_of(content: dict[str, Content]) -> ir.Table | None:
    """The nodes (table, id) with content, if any."""
    tables = [of.rows.select("id", table=ibis.literal(table)).select("table", "id") for table, of in content.items()]
    return functools.reduce(lambda one, other: one.union(other), tables) if tables else None


def _plan(engine: Engine, raw: RawSource, number: int, blocked: Blocked | None) -> Content:
    source = raw.source
    assert isinstance(source, ContentSource)
    assert source.relation is not None
    given = engine.keep(f"content_{number}_raw", engine.read([raw]))
    dim = _find_dim(given, source) if source.vector is not None else 0
    checked = given.mutate(reason=_reason(given, dim))
    checked = engine.keep(f"content_{number}_checked", _with_repeats(checked, dim, len(source.categories)))
    rejected = _count_rejected(checked, source)
    kept = checked.filter(checked.reason.isnull())
    if blocked is not None:
        names = kept.select("id", table=ibis.literal(source.relation))
        kept = kept.anti_join(engine.keep(f"content_{number}_blocked", find_blocked(names, blocked)), "id")
    codes, values = kept, None
    if source.categories:
        values = engine.keep(f"content_{number}_values", _number_values(kept, source.categories))
        codes = _with_codes(kept, values, source.categories)
    columns = {"vector": codes.vector.cast("array<float32>")} if dim else {}
    columns |= {f"code_{at}": codes[f"code_{at}"] for at in range(len(source.categories))}
    rows = engine.keep(f"content_{number}", codes.select(id=codes.id, **columns))
    if not int(rows.count().execute()):
        raise UserError(f"{source.key}: {source.path} has no usable row; left out: {rejected or 'none'}")
    entry = ContentEntry(
        dim=dim,
        scale=_scale(kept) if dim else 1.0,
        categories=source.categories,
        values=0 if values is None else int(values.count().execute()),
        rejected=rejected,
    )
    return Content(rows, values, entry)


def _find_dim(rows: ir.Table, source: ContentSource) -> int:
    """The length of most vectors; of several, the greatest."""
    lengths = rows.filter(rows.vector.notnull()).select(length=rows.vector.length())
    counted = lengths.group_by("length").agg(count=lengths.count()).to_pyarrow().to_pylist()
    dim = max(((row["count"], row["length"]) for row in counted), default=(0, 0))[1]
    if not dim:
        raise UserError(f"{source.key}.column: {source.path} has no row with a vector in {source.vector!r}")
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
        log.warning("prepare: %s: left out %s rows: %s, such as %s", source.key, f"{row['count']:,}", row["reason"], at)
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
    """Adds the number of each category's value: 0 if it is null."""
    for at in range(len(categories)):
        own = values.filter((values.category == at) & values.value.notnull()).select(given="value", own="code")
        rare = 1 + at
        joined = rows.mutate(given=rows.categories[at])
        joined = joined.left_join(own, "given").select(*joined.columns, "own")
        code = ibis.cases((joined.given.isnull(), 0), (joined.own.isnull(), rare), else_=joined.own)
        rows = joined.mutate(**{f"code_{at}": code.cast("int32")}).drop("given", "own")
    return rows
