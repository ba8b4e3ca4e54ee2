"""Brings the rows of raw files into one form, and finds the rows to reject, with the reasons.

Ibis expressions that all engines evaluate identically.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import numpy as np

from twhin_core.conditions import parse
from twhin_core.config import Relation
from twhin_core.config.prepare import Prepare, Split
from twhin_core.config.sources import Source
from twhin_core.errors import UserError
from twhin_core.graph.edge_weights import transformed
from twhin_core.graph.filters import keeps
from twhin_core.graph.hashes import bound, edge_hash
from twhin_core.graph.raw_columns import RawColumns
from twhin_core.graph.raw_files import RawFile, TimeKind
from twhin_core.graph.reverses import with_ordered_ends

MAX_ID_SIZE = 65_536  # bytes in UTF-8
MIN_SECOND, MAX_SECOND = -62_135_596_800, 253_402_300_799  # the years 1 to 9999, which all engines support


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator] # Ibis has no types
def bit_length(text: str) -> int:  # type: ignore[empty-body] # built into the engine
    """The number of bits of a text in UTF-8."""


def normalize(table: ir.Table, file: RawFile, source: Source, position: int) -> ir.Table:
    """The rows of files with one layout, with the columns listed in `sources.read_source`.

    `table` has the columns of the files as c0, c1 … and their URL as `file`.
    """
    columns = RawColumns(table, file)
    column, text = columns.raw, columns.text

    def number(name: str) -> ir.Column:
        return column(name).strip() if file.is_text(name) else column(name)

    def value(name: str) -> ir.Column:
        return column(name).nullif("") if file.is_text(name) else column(name)

    def ids(name: str) -> ir.Column:
        if file.is_list(name):
            found = column(name).cast("array<string>")
        elif name in source.lists:
            found = text(name).split(source.lists[name])
        else:
            return text(name)
        # A row without ids stays a row, to be rejected and counted.
        none = found.isnull() | (found.length() == 0)
        return none.ifelse(ibis.literal([None], type="array<string>"), found).unnest()

    kept = ibis.literal(True) if source.where is None else keeps(parse(source.where), value, file.kind)
    times = {"time": ibis.null("int64"), "bad_time": ibis.literal(False)}
    if source.timestamp is not None:
        times = _times(number(source.timestamp), file.time, is_text=file.is_text(source.timestamp))
    rows = table.select(
        lhs=ids(source.lhs),
        relation=text(source.relation_column) if source.relation_column else ibis.literal(source.relation),
        rhs=ids(source.rhs),
        weight=ibis.literal(1.0) if source.weight is None else transformed(number(source.weight.column), source.weight),
        **times,
        filtered=~kept,
        split=ibis.literal(source.split, type="string"),
        file=table.file,
        source=ibis.literal(position, type="int32"),
    )
    return rows.mutate(lhs=rows.lhs.nullif(""), rhs=rows.rhs.nullif(""))


def _times(given: ir.Column, kind: TimeKind | None, is_text: bool) -> dict[str, ir.Column]:
    """`time`, in seconds because engines disagree on fractions, and `bad_time`: whether a value is not a time."""
    if kind == "integer":
        time = given.try_cast("int64")
    else:
        time = given.try_cast("timestamp").truncate("s").epoch_seconds().cast("int64")
        time = time.between(MIN_SECOND, MAX_SECOND).ifelse(time, ibis.null("int64"))
    missing = given.isnull() | (given == "") if is_text else given.isnull()
    return {"time": time, "bad_time": time.isnull() & ~missing}


def find_relations(rows: ir.Table, relations: list[Relation], before: list[str] | None = None) -> list[Relation]:
    """The relations in the order of their ids. `*` is replaced with all values without an entry, sorted by name.

    Those named in `before`, of an earlier graph, keep their ids; new ones get the next.

    Raises:
        UserError: a value is itself `*`.
    """
    if all(relation.name != "*" for relation in relations):
        return _continued(relations, before or [])
    values = rows.filter(rows.relation.notnull()).select("relation").distinct().to_pyarrow()["relation"].to_pylist()
    if "*" in values:
        raise UserError(
            "prepare.sources: a relation in the data: '*' is the name of all relations without an entry; rename it"
        )
    others = sorted({*values, *(before or [])} - {relation.name for relation in relations})
    found = []
    for relation in relations:
        names = others if relation.name == "*" else [relation.name]
        found += [relation.model_copy(update={"name": name}) for name in names]
    return _continued(found, before or [])


def _continued(relations: list[Relation], before: list[str]) -> list[Relation]:
    places = {name: place for place, name in enumerate(before)}
    return sorted(relations, key=lambda relation: places.get(relation.name, len(places)))


def with_reasons(rows: ir.Table, relations: list[Relation], settings: Prepare, split: Split | None) -> ir.Table:
    """Adds rel: int32, lhs_table, rhs_table and `reason`: the first reason to reject the row, or null.

    The ends of rows of symmetric relations are in order, which makes a pair and its reverse the same edge.
    docs/prepare.md explains the reasons.
    """
    known = ibis.memtable(
        {
            "name": [relation.name for relation in relations],
            "rel": np.arange(len(relations), dtype=np.int32),
            "lhs_table": [relation.lhs for relation in relations],
            "rhs_table": [relation.rhs for relation in relations],
            # A column rather than a condition per relation, of which there may be thousands.
            "sample": [bound(settings.sampling.get(relation.name, 1.0)) for relation in relations],
            "symmetric": [relation.symmetric for relation in relations],
        },
        schema={"name": "string", "rel": "int32", "lhs_table": "string", "rhs_table": "string", "sample": "string"}
        | {"symmetric": "boolean"},
    )
    rows = rows.left_join(known, rows.relation == known.name).drop("name")
    if any(relation.symmetric for relation in relations):
        rows = with_ordered_ends(rows)
    fp32 = np.finfo(np.float32)
    # The statistics of Parquet files ignore NaN. Relying on them, DuckDB optimizes away range checks and `isnan`, but
    # not this comparison.
    finite = rows.weight * 0.0 == 0.0
    positive = rows.weight.between(float(fp32.smallest_normal), float(fp32.max)) & finite
    reasons = [
        (rows.filtered, "filtered"),
        (rows.lhs.isnull() | rows.rhs.isnull(), "null_id"),
        ((bit_length(rows.lhs) > 8 * MAX_ID_SIZE) | (bit_length(rows.rhs) > 8 * MAX_ID_SIZE), "long_id"),
        (rows.rel.isnull(), "unknown_relation"),
        (~positive.fill_null(False), "invalid_weight"),
        (rows.bad_time, "invalid_timestamp"),
    ]
    ages = (settings.time_window, settings.window, settings.edge_decay)
    needs_all = any(setting is not None for setting in ages)
    if needs_all or (split is not None and split.by != "hash"):
        chosen = split.relations if not needs_all and split is not None else None
        needs_time = ibis.literal(True) if chosen is None else rows.relation.isin(chosen)
        reasons.append((rows.time.isnull() & needs_time, "null_timestamp"))
    start, end = (None, None) if settings.time_window is None else settings.time_window.bounds
    if start is not None:
        reasons.append((rows.time < start, "outside_window"))
    if end is not None:
        reasons.append((rows.time >= end, "outside_window"))
    if settings.self_loops == "drop":
        reasons.append(((rows.lhs == rows.rhs) & (rows.lhs_table == rows.rhs_table), "self_loop"))
    if settings.sampling:
        digits = edge_hash(rows, 0 if split is None else split.seed, "sample")
        reasons.append(((digits >= rows["sample"]).fill_null(False), "not_sampled"))
    return rows.mutate(reason=ibis.cases(*reasons).cast("string")).drop("bad_time", "filtered", "sample", "symmetric")
