"""DuckDB as prepare's engine: in this process, within a memory limit, spilling to disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from twhin_core.config.prepare import Prepare
from twhin_core.errors import UserError
from twhin_core.graph.engine import Engine
from twhin_core.graph.raw_files import RawSource
from twhin_core.graph.sources import duckdb_line, read_sources
from twhin_core.parquet import FileEntry, write_parts

ROWS_PER_BATCH = 131_072
ERRORS = (duckdb.Error, OSError, pa.ArrowException)  # the last two from `stream`, with DuckDB's message


class DuckDBEngine(Engine):
    """Tables live in one database file."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._kept: dict[str, int] = {}

    def read(self, sources: list[RawSource]) -> ir.Table:
        return read_sources(self.backend, sources)

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        # Neither create_table(overwrite=True) nor drop_table: Ibis 12 leaves the table's name out of the SQL of both.
        number = self._kept.get(name, 0)
        table = self.backend.create_table(f"{name}_{number}", rows)
        if number:
            self.backend.raw_sql(f"DROP TABLE {name}_{number - 1}")
        self._kept[name] = number + 1
        return table

    def write(self, rows: ir.Table, order: Sequence[str], schema: pa.Schema, root: str, folder: str) -> list[FileEntry]:
        ordered = rows.order_by(*order).select(*schema.names)
        return write_parts(stream(self.backend, ordered), schema, root, folder)


def stream(backend: Backend, rows: ir.Table) -> pa.RecordBatchReader:
    """The rows batch by batch, in memory that their number does not change."""
    # Not Ibis's own to_pyarrow_batches: in version 12 it calls a method that DuckDB 2.0 no longer has.
    return backend.con.sql(backend.compile(rows)).to_arrow_reader(ROWS_PER_BATCH)


@contextlib.contextmanager
def connect(settings: Prepare) -> Iterator[DuckDBEngine]:
    """An engine whose tables live in a folder of their own, which is removed when the block ends."""
    with scratch(settings.temp_directory) as folder:
        backend = open_backend(
            os.path.join(folder, "graph.duckdb"),
            memory_limit=settings.memory_limit,
            temp_directory=os.path.join(folder, "spill"),
        )
        # Each table is read a few times and then gone: looking for what compresses best took a quarter of the time.
        backend.raw_sql("SET force_compression = 'uncompressed'")
        try:
            yield DuckDBEngine(backend)
        except ERRORS as error:
            raise _explained(error, settings, folder) from error
        finally:
            backend.disconnect()


def open_backend(database: str, **settings: object) -> Backend:
    backend = ibis.duckdb.connect(
        database,
        preserve_insertion_order=False,  # every table that is written is sorted explicitly
        **settings,
    )
    backend.raw_sql("SET enable_progress_bar = false")
    backend.raw_sql("SET TimeZone = 'UTC'")  # or a time with a zone would depend on the machine's
    return backend


@contextlib.contextmanager
def scratch(parent: str | None) -> Iterator[str]:
    """A new folder, removed at the end."""
    try:
        if parent is not None:
            os.makedirs(parent, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="twhin-prepare-", dir=parent)
    except OSError as error:
        raise UserError(f"prepare.temp_directory: {parent} cannot be written to: {error.strerror}") from None
    with made as folder:
        yield folder


def _explained(error: Exception, settings: Prepare, folder: str) -> Exception:
    """The user's mistake that ended in `error`, or the error itself where it is none."""
    said = duckdb_line(str(error))
    if (said.startswith("IO Error") and folder in said) or "max_temp_directory_size" in str(error):
        return UserError(f"prepare.temp_directory: {os.path.dirname(folder)} has no room left: {said}")
    if said.startswith("Out of Memory Error"):
        return UserError(f"prepare.memory_limit: {settings.memory_limit} is too small: {said}")
    return unreadable(error) or error


def unreadable(error: Exception) -> UserError | None:
    """What a file holds that DuckDB could not read; None where that is not what `error` says."""
    kinds = ("Invalid Input Error", "IO Error")  # the exception's class says it only outside of `stream`
    return UserError(duckdb_line(str(error))) if str(error).startswith(kinds) else None
