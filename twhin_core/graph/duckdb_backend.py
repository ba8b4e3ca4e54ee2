"""DuckDB through Ibis: connections, streaming and errors. The Spark engine also reads raw files with it."""

from __future__ import annotations

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from twhin_core import limits
from twhin_core.errors import UserError
from twhin_core.graph.sources import duckdb_line

ROWS_PER_BATCH = 131_072
ERRORS = (duckdb.Error, OSError, pa.ArrowException)  # `stream` raises the last two, with DuckDB's message


def open_backend(database: str, **settings: object) -> Backend:
    backend = ibis.duckdb.connect(
        database,
        preserve_insertion_order=False,  # everything that is written is sorted explicitly
        **{"threads": limits.cores(), **settings},
    )
    backend.raw_sql("SET enable_progress_bar = false")
    backend.raw_sql("SET TimeZone = 'UTC'")  # else times with a zone would depend on the machine's
    return backend


def stream(backend: Backend, rows: ir.Table) -> pa.RecordBatchReader:
    """The rows in batches, with constant memory."""
    # Ibis 12's to_pyarrow_batches calls a method that DuckDB 2.0 removed.
    return backend.con.sql(backend.compile(rows)).to_arrow_reader(ROWS_PER_BATCH)


def unreadable(error: Exception) -> UserError | None:
    """The UserError for a file that DuckDB could not read, or None if `error` has another cause."""
    kinds = ("Invalid Input Error", "IO Error")  # errors from `stream` lack DuckDB's exception classes
    return UserError(duckdb_line(str(error))) if str(error).startswith(kinds) else None
