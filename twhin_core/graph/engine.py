"""The engine that runs prepare's Ibis expressions: DuckDB, within a memory limit, spilling to disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from twhin_core.errors import UserError

ROWS_PER_BATCH = 131_072


@contextlib.contextmanager
def connect(memory_limit: str) -> Iterator[Backend]:
    """An engine whose tables live in a folder of their own under TMPDIR, which is removed when the block ends.

    Raises:
        UserError: the work did not fit into `memory_limit`.
    """
    with tempfile.TemporaryDirectory(prefix="twhin-prepare-") as folder:
        engine = ibis.duckdb.connect(
            os.path.join(folder, "graph.duckdb"),
            memory_limit=memory_limit,
            temp_directory=os.path.join(folder, "spill"),
            preserve_insertion_order=False,  # every table that is written is sorted explicitly
        )
        engine.raw_sql("SET enable_progress_bar = false")
        engine.raw_sql("SET TimeZone = 'UTC'")  # or a time with a zone would depend on the machine's
        try:
            yield engine
        except duckdb.OutOfMemoryException as error:
            raise UserError(f"prepare.memory_limit: is too small: {str(error).splitlines()[0]}") from None
        finally:
            engine.disconnect()


def stream(engine: Backend, rows: ir.Table) -> pa.RecordBatchReader:
    """The rows batch by batch, in memory that their number does not change."""
    # Not Ibis's own to_pyarrow_batches: in version 12 it calls a method that DuckDB 2.0 no longer has.
    return engine.con.sql(engine.compile(rows)).to_arrow_reader(ROWS_PER_BATCH)
