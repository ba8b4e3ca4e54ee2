"""DuckDB through Ibis: the connection, its rows batch by batch, its errors. Spark reads raw files with it too."""

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
ERRORS = (duckdb.Error, OSError, pa.ArrowException)  # the last two from `stream`, with DuckDB's message


def open_backend(database: str, **settings: object) -> Backend:
    backend = ibis.duckdb.connect(
        database,
        preserve_insertion_order=False,  # every table that is written is sorted explicitly
        **{"threads": limits.cores(), **settings},
    )
    backend.raw_sql("SET enable_progress_bar = false")
    backend.raw_sql("SET TimeZone = 'UTC'")  # or a time with a zone would depend on the machine's
    return backend


def stream(backend: Backend, rows: ir.Table) -> pa.RecordBatchReader:
    """The rows batch by batch, in memory that their number does not change."""
    # Not Ibis's own to_pyarrow_batches: in version 12 it calls a method that DuckDB 2.0 no longer has.
    return backend.con.sql(backend.compile(rows)).to_arrow_reader(ROWS_PER_BATCH)


def unreadable(error: Exception) -> UserError | None:
    """What a file holds that DuckDB could not read; None where that is not what `error` says."""
    kinds = ("Invalid Input Error", "IO Error")  # the exception's class says it only outside of `stream`
    return UserError(duckdb_line(str(error))) if str(error).startswith(kinds) else None
