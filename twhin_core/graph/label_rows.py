"""Brings the rows of files with labels of nodes into one form, as Ibis expressions."""

from __future__ import annotations

import re

import ibis
import ibis.expr.types as ir

from twhin_core.config.sources import LabelSource
from twhin_core.errors import UserError
from twhin_core.graph.raw_columns import RawColumns
from twhin_core.graph.raw_files import RawFile, RawSource

LABELS = re.compile(r"u?int\d+|bool|(large_)?string(_view)?")
NUMBERS = re.compile(r"u?int\d+|bool|float|double|decimal.*")


def label_rows(table: ir.Table, file: RawFile, source: LabelSource, position: int) -> ir.Table:
    """The rows as id, label: string, null if empty; number_0, number_1 …: double, null if not a number; file
    and source.

    `table` as in `rows.normalize`.
    """
    columns = RawColumns(table, file)
    numbers = {
        f"number_{at}": (columns.raw(name).strip() if file.is_text(name) else columns.raw(name)).try_cast("float64")
        for at, name in enumerate(source.numbers)
    }
    return table.select(
        id=columns.text(source.lhs).nullif(""),
        label=columns.text(source.rhs).nullif(""),
        **numbers,
        file=table.file,
        source=ibis.literal(position, type="int32"),
    )


def check_labels(raw: RawSource) -> None:
    """Raises UserError if a column of ids, labels or numbers has an unusable type."""
    source = raw.source
    assert isinstance(source, LabelSource)
    for file in raw.files:
        wanted = [(source.rhs, source.use("rhs"), LABELS, "a string, an integer or a boolean")]
        wanted += [(name, f"{source.key}.features", NUMBERS, "a number") for name in source.numbers]
        for name, use, kinds, expected in wanted:
            if not file.is_text(name) and not kinds.fullmatch(file.kind(name)):
                raise UserError(f"{file.url}: column {name!r} ({use}) is {file.kind(name)}, not {expected}")
        if file.is_list(source.lhs):
            raise UserError(f"{file.url}: column {source.lhs!r} ({source.use('lhs')}) holds lists, not ids")
