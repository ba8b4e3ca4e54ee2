"""Fills a model's tables of content."""

from __future__ import annotations

from collections.abc import Mapping

from twhin_core.distributed.parts import local_parts
from twhin_core.schema import Schema
from twhin_core.training.matched_rows import Whole
from twhin_core.vectors.content import content_of

ROWS_AT_ONCE = 16_384


def fill_content(targets: Mapping[str, Whole], root: str, schema: Schema) -> None:
    """Fills this rank's part of each table, [rows, shape.stored_width], from the graph of the run at `root`.

    Raises:
        UserError: a file is broken.
    """
    for table, target in targets.items():
        shape = schema.content[table]
        rows = content_of(root, table, schema.tables[table])
        for part in local_parts(target):
            part.values.zero_()
            for start in range(0, len(part.values), ROWS_AT_ONCE):
                stop = min(start + ROWS_AT_ONCE, len(part.values))
                found = rows.read(part.first_row + start, part.first_row + stop)[:, : shape.width]
                part.values[start:stop, : shape.width] = found.to(part.values)
