"""DuckDB through Ibis: connections, streaming and errors. The Spark engine also reads raw files with it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.common.exceptions import IbisError

from twhin_core import limits
from twhin_core.config.sources import Source
from twhin_core.errors import TwhinError, UserError, one_line
from twhin_core.graph.raw_files import RawFile, RawSource
from twhin_core.graph.sources import read_source
from twhin_core.graph.text_files import find_fault

ROWS_PER_BATCH = 131_072
READER_MEMORY = "512MB"  # memory limit of DuckDB where it reads one file
ERRORS = (duckdb.Error, IbisError, OSError, pa.ArrowException, MemoryError)  # `stream` raises Arrow's and OSError


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


def read_alone(file: RawFile, source: Source, position: int) -> Iterator[pa.RecordBatch]:
    """The rows of one file of a source, as `read_source` returns them.

    Raises:
        UserError: the file is broken. The line names it, whatever DuckDB says.
    """
    backend = open_backend(":memory:", memory_limit=READER_MEMORY, threads=1)
    try:
        yield from stream(backend, read_source(backend, RawSource(source, [file]), position))
    except TwhinError:
        raise
    except ERRORS as error:
        fault = None if file.format == "parquet" else find_fault(file.url, file.format)
        raise UserError(f"{file.url}: {fault or duckdb_line(error)}") from error
    finally:
        backend.disconnect()


def duckdb_line(error: Exception) -> str:
    """`line n: problem` from DuckDB's long message about a CSV; the first line of any other message."""
    message = str(error)
    line = re.search(r"CSV Error on Line: (\d+)", message)
    if line is None:
        return one_line(error)
    problem = re.split("Possible (?:fixes|Solution)", message)[0].rstrip().splitlines()[-1]
    return f"line {line.group(1)}: {problem.strip().rstrip('.')}"
