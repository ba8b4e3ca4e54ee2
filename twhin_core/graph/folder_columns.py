"""Columns that Hive's partition folders give: every row of `day=7/part-0.csv` has the text 7 in the column `day`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

import ibis
import ibis.expr.types as ir

NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class FolderColumn:
    """A column, and the text that its name has in paths, where `a/b` is `a%2Fb`."""

    name: str
    escaped: str


def folder_columns(url: str) -> dict[FolderColumn, str | None]:
    """The columns that the folders of a file give, with its values. The innermost counts."""
    pairs = [folder.partition("=") for folder in url.split("/")[:-1]]
    return {
        FolderColumn(unquote(name), name): None if value in ("", NULL) else unquote(value)
        for name, equals, value in pairs
        if name and equals
    }


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator] # Ibis has no types
def url_decode(text: str) -> str:  # type: ignore[empty-body] # built into DuckDB, which reads all raw files
    """Unescapes `%2F` and the like."""


def from_folders(url: ir.StringColumn, column: FolderColumn) -> ir.StringColumn:
    """A column of rows from the files `url`, with the values of `folder_columns`."""
    value = url.re_extract(f"^.*/{re.escape(column.escaped)}=([^/]*)/", 1)  # `.*` leads to the innermost
    return url_decode(value.nullif("").nullif(NULL))
