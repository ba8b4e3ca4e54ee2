"""What runs prepare's Ibis expressions: DuckDB on this machine, or Spark beyond one.

The plan is the same; engines differ only in how files become tables, where tables are kept between the steps, and
who writes the sorted result.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import ibis.expr.types as ir
import pyarrow as pa

from twhin_core.errors import UserError
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
