"""The columns of raw files, whether they are in the files or in their paths."""

from __future__ import annotations

import functools
import itertools

import ibis
import ibis.expr.types as ir

from twhin_core.graph.folder_columns import from_folders
from twhin_core.graph.raw_files import BINARY_ID, RawFile


@ibis.udf.scalar.builtin(name="hex")  # type: ignore[untyped-decorator] # Ibis has no types
def hexadecimal(data: bytes) -> str:  # type: ignore[empty-body] # built into the engine
    """Two digits per byte."""


class RawColumns:
    """The columns of files with one layout by name, from a table that has them as c0, c1 … and their URL as `file`."""

    def __init__(self, table: ir.Table, file: RawFile) -> None:
        self._table, self._file = table, file
        self._names = [name for name, _ in file.columns]

    def raw(self, name: str) -> ir.Column:
        """The values as they are."""
        if in_path := self._file.folder_column(name):
            return from_folders(self._table.file, in_path)
        return self._table[f"c{self._names.index(name)}"]

    def text(self, name: str) -> ir.Column:
        """The values as text; UUIDs of 16 bytes as they are usually written."""
        is_binary = dict(self._file.columns).get(name) == BINARY_ID
        return _uuid(self.raw(name)) if is_binary else self.raw(name).cast("string")


def _uuid(data: ir.BinaryColumn) -> ir.StringColumn:
    """Formats 16 bytes as a UUID."""
    digits = hexadecimal(data).lower()
    parts = [digits.substr(start, end - start) for start, end in itertools.pairwise((0, 8, 12, 16, 20, 32))]
    return functools.reduce(lambda text, part: text + "-" + part, parts)
