"""Rows of raw files in one form, and which of them are no edges by themselves, or not wanted, and why.

Ibis expressions that every engine runs alike.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import numpy as np

from twhin_core.config import Relation
from twhin_core.config.prepare import Prepare, Source, Split
from twhin_core.graph.hashes import below, edge_hash
from twhin_core.graph.raw_files import BINARY_ID, RawFile

LONGEST_ID = 65_536  # bytes in UTF-8
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 to 9999, which every engine knows


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator] # Ibis carries no types
def bit_length(text: str) -> int:  # type: ignore[empty-body] # the engine's own
    """Bits of the text in UTF-8."""


@ibis.udf.scalar.builtin(name="hex")  # type: ignore[untyped-decorator] # Ibis carries no types
def hexadecimal(data: bytes) -> str:  # type: ignore[empty-body] # the engine's own
    """Two digits a byte."""


@dataclass(frozen=True)
class Rules:
    """What is asked of a row by itself.

    `needs_time`: one without a time is of no use; `window`: the first time that is taken and the first that is not;
    `sampling`: the share that is kept, by relation; `seed`: of the sample.
    """

    needs_time: bool
    window: tuple[int | None, int | None]
    drop_self_loops: bool
    sampling: dict[str, float]
    seed: int


def rules(settings: Prepare, split: Split | None) -> Rules:
    return Rules(
        needs_time=settings.time_window is not None or (split is not None and split.by != "hash"),
        window=(None, None) if settings.time_window is None else settings.time_window.bounds,
        drop_self_loops=settings.self_loops == "drop",
        sampling=settings.sampling,
        seed=0 if split is None else split.seed,
    )


def normalise(table: ir.Table, file: RawFile, source: Source, position: int) -> ir.Table:
    """The rows of files of one layout in the columns that `sources.read_sources` names.

    `table` has the columns of the files, those of text files named c0, c1 …, and `twhin_file`, the URL.
    """
    names = [name for name, _ in file.columns]

    def column(name: str) -> ir.Column:
        return table[name] if file.format == "parquet" else table[f"c{names.index(name)}"].strip()

    def text(name: str) -> ir.Column:
        if file.format != "parquet":
            return table[f"c{names.index(name)}"].nullif("")
        if dict(file.columns)[name] == BINARY_ID:
            return _uuid(table[name])
        return table[name].cast("string").nullif("")

    times = {"time": ibis.null("int64"), "bad_time": ibis.literal(False)}
    if source.timestamp is not None:
        times = _times(column(source.timestamp), file)
    return table.select(
        lhs=text(source.lhs),
        relation=text(source.relation_column) if source.relation_column else ibis.literal(source.relation),
        rhs=text(source.rhs),
        weight=column(source.weight).try_cast("float64") if source.weight else ibis.literal(1.0),
        **times,
        split=ibis.literal(source.split, type="string"),
        file=table.twhin_file,
        source=ibis.literal(position, type="int32"),
    )


def _uuid(data: ir.BinaryColumn) -> ir.StringColumn:
    """16 bytes as the text of a UUID."""
    digits = hexadecimal(data).lower()
    parts = [digits.substr(start, end - start) for start, end in itertools.pairwise((0, 8, 12, 16, 20, 32))]
    return functools.reduce(lambda text, part: text + "-" + part, parts)


def _times(given: ir.Column, file: RawFile) -> dict[str, ir.Column]:
    """`time` in whole seconds, as engines agree on these alone, and `bad_time`: whether one is given that is none."""
    if file.time == "integer":
        time = given.try_cast("int64")
    else:
        time = given.try_cast("timestamp").truncate("s").epoch_seconds().cast("int64")
        time = time.between(FIRST_SECOND, LAST_SECOND).ifelse(time, ibis.null("int64"))
    missing = given.isnull() if file.format == "parquet" else given.isnull() | (given == "")
    return {"time": time, "bad_time": time.isnull() & ~missing}


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


def with_reasons(rows: ir.Table, relations: list[Relation], rules: Rules) -> ir.Table:
    """Adds rel: int32, lhs_table and rhs_table, and `reason`: the first that keeps a row from being an edge, or null.

    docs/prepare.md says what the reasons mean.
    """
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
    # A Parquet file's statistics leave NaN out. DuckDB takes them at their word, and so finds NaN to be within bounds,
    # and even to be none; it finds that 0 times NaN is not 0.
    finite = rows.weight * 0.0 == 0.0
    positive = rows.weight.between(float(fp32.smallest_normal), float(fp32.max)) & finite
    reasons = [
        (rows.lhs.isnull() | rows.rhs.isnull(), "null_id"),
        ((bit_length(rows.lhs) > 8 * LONGEST_ID) | (bit_length(rows.rhs) > 8 * LONGEST_ID), "long_id"),
        (rows.rel.isnull(), "unknown_relation"),
        (~positive.fill_null(False), "invalid_weight"),
        (rows.bad_time, "invalid_timestamp"),
    ]
    if rules.needs_time:
        reasons.append((rows.time.isnull(), "null_timestamp"))
    start, end = rules.window
    if start is not None:
        reasons.append((rows.time < start, "outside_window"))
    if end is not None:
        reasons.append((rows.time >= end, "outside_window"))
    if rules.drop_self_loops:
        reasons.append(((rows.lhs == rows.rhs) & (rows.lhs_table == rows.rhs_table), "self_loop"))
    for relation, share in rules.sampling.items():
        digits = edge_hash(rows, rules.seed, "sample")
        reasons.append(((rows.relation == relation) & ~below(digits, share), "not_sampled"))
    return rows.mutate(reason=ibis.cases(*reasons).cast("string")).drop("bad_time")
