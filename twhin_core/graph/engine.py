"""What runs prepare's Ibis expressions: DuckDB on this machine, or Spark beyond one.

The plan is the same; engines differ only in how files become tables, where tables are kept between the steps, and
who writes the sorted result.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import ibis.expr.types as ir
import pyarrow as pa

from twhin_core.config.prepare import Prepare
from twhin_core.graph.raw_files import RawSource
from twhin_core.parquet import FileEntry


class Engine(ABC):
    """One connection; its tables are gone when it ends."""

    @abstractmethod
    def read(self, sources: list[RawSource]) -> ir.Table:
        """Every row of every source, with the columns that `sources.read_sources` names; nothing is read yet."""

    @abstractmethod
    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Runs `rows` and keeps what comes out as the table `name`, on disk beyond the memory limit.

        A table of that name that was kept before is dropped once the new one, which may come of it, is there.
        """

    @abstractmethod
    def write(self, rows: ir.Table, order: Sequence[str], schema: pa.Schema, root: str, folder: str) -> list[FileEntry]:
        """Writes the columns of `schema`, sorted by the columns `order`, to Parquet parts in `<root>/<folder>`.

        The rows of the parts, in the order of their names, are the sorted rows; row groups have
        `parquet.ROWS_PER_GROUP` rows but for the last of a file. What was in the folder is removed first.
        """


@contextlib.contextmanager
def connect(settings: Prepare) -> Iterator[Engine]:
    """The engine, with the memory and the disk of the config.

    Raises:
        UserError: in the block, where memory or the disk under `prepare.temp_directory` does not do.
    """
    if settings.engine == "spark":
        from twhin_core.graph import spark_engine  # PySpark is an extra

        with spark_engine.connect(settings) as engine:
            yield engine
    else:
        from twhin_core.graph import duckdb_engine

        with duckdb_engine.connect(settings) as engine:
            yield engine
