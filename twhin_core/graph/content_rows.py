"""Brings the rows of files with content into one form. Ibis expressions that all engines evaluate identically."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from twhin_core.config.sources import ContentSource
from twhin_core.errors import UserError
from twhin_core.graph.raw_columns import RawColumns
from twhin_core.graph.raw_files import RawFile, RawSource

CONTENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("vector", pa.list_(pa.float64())), ("categories", pa.list_(pa.string())),
        ("file", pa.string()), ("source", pa.int32()),
    ]
)  # fmt: skip


def content_rows(table: ir.Table, file: RawFile, source: ContentSource, position: int) -> ir.Table:
    """The rows with the columns of `CONTENT_SCHEMA`; an empty id or category is null. `table` as in `rows.normalize`.

    `vector` is null if the source has none, or the row.
    """
    columns = RawColumns(table, file)
    vector = ibis.null("array<float64>")
    if source.vector is not None:
        vector = columns.raw(source.vector).cast("array<float64>")
    categories = [columns.text(name).nullif("") for name in source.categories]
    return table.select(
        id=columns.text(source.lhs).nullif(""),
        vector=vector,
        categories=ibis.array(categories) if categories else ibis.null("array<string>"),
        file=table.file,
        source=ibis.literal(position, type="int32"),
    )


def check_content(found: list[RawSource]) -> None:
    """Raises UserError if a column of vectors or categories has an unusable type."""
    for raw in found:
        source = raw.source
        assert isinstance(source, ContentSource)
        for file in raw.files:
            if source.vector is not None:
                kind = file.kind(source.vector)
                if not file.is_list(source.vector) or not ("float" in kind or "double" in kind) or "half" in kind:
                    raise UserError(
                        f"{file.url}: column {source.vector!r} ({source.key}.column) is {kind}, not a list of floats"
                    )
            for name in source.categories:
                if not file.is_text(name) and not ("int" in file.kind(name) or "string" in file.kind(name)):
                    raise UserError(
                        f"{file.url}: column {name!r} ({source.key}.categories) is {file.kind(name)}, not a string or "
                        "an integer"
                    )
