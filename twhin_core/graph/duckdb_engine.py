"""The DuckDB engine of prepare: runs in this process within a memory limit, and spills to disk."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from twhin_core.config.prepare import Prepare
from twhin_core.errors import TwhinError, UserError
from twhin_core.graph.duckdb_backend import ERRORS, duckdb_line, open_backend, read_alone, stream
from twhin_core.graph.engine import ROW_BITS, Engine, scratch
from twhin_core.graph.raw_files import RawSource
from twhin_core.graph.sources import as_literal, in_sql, read_sources, register
from twhin_core.parquet import FileEntry, StoredFile, open_parquet, write_parts

SQL_TYPES = {
    pa.int64(): "BIGINT", pa.int32(): "INTEGER", pa.float32(): "FLOAT", pa.string(): "VARCHAR",
    pa.list_(pa.float32()): "FLOAT[]",
}  # fmt: skip


class DuckDBEngine(Engine):
    """Keeps tables in one database file."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._kept: dict[str, int] = {}
        self.sources: list[RawSource] = []

    def read(self, sources: list[RawSource]) -> ir.Table:
        self.sources = [*self.sources, *sources]
        return read_sources(self.backend, sources)

    def read_files(self, name: str, files: list[StoredFile], schema: pa.Schema) -> ir.Table:
        register(self.backend, [file.url for file in files])
        stored = set().union(*(_columns(file) for file in files))
        columns = [
            f"{column.name if column.name in stored else 'NULL'}::{SQL_TYPES[column.type]} AS {column.name}"
            for column in schema
        ]
        paths = in_sql([as_literal(file.url) for file in files])
        # Ibis cannot name the two columns that tell the position.
        self.backend.raw_sql(
            f"CREATE OR REPLACE VIEW {name} AS SELECT {', '.join(columns)}, "  # noqa: S608 # names of ours, quoted paths
            f"file_index::BIGINT << {ROW_BITS} | file_row_number AS position "
            f"FROM read_parquet({paths}, union_by_name = true, hive_partitioning = false)"
        )
        return self.backend.table(name)

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        # Ibis 12 omits the table's name from the SQL of create_table(overwrite=True) and drop_table.
        number = self._kept.get(name, 0)
        table = self.backend.create_table(f"{name}_{number}", rows)
        if number:
            self.backend.raw_sql(f"DROP TABLE {name}_{number - 1}")
        self._kept[name] = number + 1
        return table

    def view(self, name: str, rows: ir.Table) -> ir.Table:
        return self.backend.create_view(name, rows)

    def write(self, rows: ir.Table, order: Sequence[str], schema: pa.Schema, root: str, folder: str) -> list[FileEntry]:
        ordered = rows.order_by(*order).select(*schema.names)
        batches = (batch.cast(schema) for batch in stream(self.backend, ordered))  # vectors to their length
        return write_parts(batches, schema, root, folder)


def _columns(file: StoredFile) -> list[str]:
    with open_parquet(file.url, footer=file.footer) as opened:
        names: list[str] = opened.schema_arrow.names
        return names


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
        engine = DuckDBEngine(backend)
        try:
            yield engine
        except TwhinError:
            raise
        except ERRORS as error:
            raise _explained(error, settings, folder, engine.sources) from error
        finally:
            backend.disconnect()


def _explained(error: Exception, settings: Prepare, folder: str, sources: list[RawSource]) -> UserError:
    """The UserError for any failure of DuckDB. Names the resource that is short, or else the file that it cannot read.

    DuckDB's messages rarely name the file, and the kind of error says little: a full disk can be any of five.
    """
    text, line = str(error), duckdb_line(error)
    if folder in text or "max_temp_directory_size" in text or os.strerror(errno.ENOSPC) in text:
        return UserError(f"prepare.temp_directory: {os.path.dirname(folder)} is full or fails: {line}")
    if "Out of Memory" in text or isinstance(error, MemoryError):
        return UserError(f"prepare.memory_limit: {settings.memory_limit} is too small: {line}")
    return _find_unreadable(sources, text) or UserError(f"prepare: DuckDB failed: {line}")


def _find_unreadable(sources: list[RawSource], text: str) -> UserError | None:
    """The error of the first file that cannot be read alone; those that `text` names come first."""
    files = [(file, raw.source, position) for position, raw in enumerate(sources) for file in raw.files]
    for file, source, position in sorted(files, key=lambda entry: entry[0].url not in text):
        try:
            for _ in read_alone(file, source, position):
                pass
        except UserError as error:
            return error
    return None
