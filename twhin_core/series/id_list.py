"""Lists of ids, from a file of the user."""

from __future__ import annotations

import sys
from uuid import UUID

from twhin_core import storage
from twhin_core.errors import UserError
from twhin_core.graph.text_files import first_rows
from twhin_core.parquet import open_parquet
from twhin_core.vectors.ids import id_text

COLUMN = "id"


def read_ids(url: str) -> list[str]:
    """The distinct ids of a file, sorted: the column `id`, or the only one, of Parquet, CSV or TSV; else a line each.

    Raises:
        UserError: the file is missing, broken or has no ids, or no such column.
    """
    if not storage.exists(url):
        raise UserError(f"{url}: there is no such file")
    names = set(_read(url)) - {""}
    if not names:
        raise UserError(f"{url}: has no ids")
    return sorted(names)


def _read(url: str) -> list[str]:
    form = url.removesuffix(".gz").rsplit(".", 1)[-1]
    if form == "parquet":
        with open_parquet(url) as file:
            name = _column(url, file.schema_arrow.names)
            values = file.read([name])[name].to_pylist()
        return [id_text(UUID(bytes=of) if isinstance(of, bytes) else of) for of in values if of is not None]
    if form in ("csv", "tsv"):
        header, *rows = first_rows(url, form, sys.maxsize) or [[]]
        place = header.index(_column(url, header))
        return [row[place] for row in rows if len(row) > place]
    return [line.removesuffix("\r") for line in storage.read_text(url).removeprefix("\ufeff").split("\n")]


def _column(url: str, names: list[str]) -> str:
    if COLUMN in names or len(names) != 1:
        if names.count(COLUMN) != 1:
            raise UserError(f"{url}: expected one column {COLUMN}; its columns are {', '.join(names) or 'none'}")
        return COLUMN
    return names[0]
