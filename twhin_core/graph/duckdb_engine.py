"""The DuckDB engine of prepare: runs in this process within a memory limit, and spills to disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from twhin_core.config.prepare import Prepare
from twhin_core.errors import UserError
from twhin_core.graph.duckdb_backend import ERRORS, open_backend, stream, unreadable
from twhin_core.graph.engine import Engine, scratch
from twhin_core.graph.raw_files import RawSource
from twhin_core.graph.sources import duckdb_line, read_sources
from twhin_core.parquet import FileEntry, write_parts


class DuckDBEngine(Engine):
    """Keeps tables in one database file."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._kept: dict[str, int] = {}

    def read(self, sources: list[RawSource]) -> ir.Table:
        return read_sources(self.backend, sources)

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        # Ibis 12 omits the table's name from the SQL of create_table(overwrite=True) and drop_table.
        number = self._kept.get(name, 0)
        table = self.backend.create_table(f"{name}_{number}", rows)
        if number:
            self.backend.raw_sql(f"DROP TABLE {name}_{number - 1}")
        self._kept[name] = number + 1
        return table

    def write(self, rows: ir.Table, order: Sequence[str], schema: pa.Schema, root: str, folder: str) -> list[FileEntry]:
        ordered = rows.order_by(*order).select(*schema.names)
        return write_parts(stream(self.backend, ordered), schema, root, folder)


@contextlib.contextmanager
def connect(settings: Prepare) -> Iterator[DuckDBEngine]:
    """An engine with a temporary folder of its own, which is removed when the block ends."""
    with scratch(settings.temp_directory) as folder:
        backend = open_backend(
            os.path.join(folder, "graph.duckdb"),
            memory_limit=settings.memory_limit,
            temp_directory=os.path.join(folder, "spill"),
        )
        # Choosing a compression for short-lived tables took a quarter of the time.
        backend.raw_sql("SET force_compression = 'uncompressed'")
        try:
            yield DuckDBEngine(backend)
        except ERRORS as error:
            raise _user_error(error, settings, folder) or error from error
        finally:
            backend.disconnect()


def _user_error(error: Exception, settings: Prepare, folder: str) -> UserError | None:
    """The UserError that explains `error`, or None if the user cannot fix it."""
    line = duckdb_line(str(error))
    if (line.startswith("IO Error") and folder in line) or "max_temp_directory_size" in str(error):
        return UserError(f"prepare.temp_directory: {os.path.dirname(folder)} is full: {line}")
    if line.startswith("Out of Memory Error"):
        return UserError(f"prepare.memory_limit: {settings.memory_limit} is too small: {line}")
    return unreadable(error)
