"""The interface of the engines that run prepare's Ibis expressions: DuckDB, or Spark for more than one machine.

Both run the same plan. They differ in how they read files, keep tables between steps and write the sorted result.
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
from twhin_core.parquet import FileEntry, StoredFile

ROW_BITS = 40
"""Of a position, for the row in its file."""


class Engine(ABC):
    """A connection. Its tables are removed when it ends."""

    @abstractmethod
    def read(self, sources: list[RawSource]) -> ir.Table:
        """All rows of all sources, lazily, with the columns listed in `sources.read_source`. Some source has files."""

    @abstractmethod
    def read_files(self, name: str, files: list[StoredFile], schema: pa.Schema) -> ir.Table:
        """The rows of Parquet files as the table `name`: the columns of `schema`, null where a file lacks one.

        The column `position`: int64 is in the order of the files and of the rows in them.
        """

    @abstractmethod
    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Evaluates `rows` and keeps the result as the table `name`, spilling to disk.

        Drops the previous table of that name afterwards, since `rows` may depend on it.
        """

    @abstractmethod
    def view(self, name: str, rows: ir.Table) -> ir.Table:
        """Gives `rows` the name of a table, without evaluating them: what depends on them is compiled much faster."""

    @abstractmethod
    def write(self, rows: ir.Table, order: Sequence[str], schema: pa.Schema, root: str, folder: str) -> list[FileEntry]:
        """Writes the columns of `schema`, sorted by the columns `order`, to Parquet parts in `<root>/<folder>`.

        Clears the folder first. The sort order continues from part to part; row groups have `parquet.ROWS_PER_GROUP`
        rows, except for the last one of a file.
        """


@contextlib.contextmanager
def scratch(parent: str | None) -> Iterator[str]:
    """A new folder in `parent`, or else in TMPDIR, removed when the block ends."""
    place = parent or os.environ.get("TMPDIR") or None
    try:
        if parent is not None:
            os.makedirs(parent, exist_ok=True)
        directory = tempfile.TemporaryDirectory(prefix="twhin-prepare-", dir=place)
    except OSError as error:
        key = "TMPDIR" if parent is None else "prepare.temp_directory"
        raise UserError(f"{key}: {place} cannot be written to: {error.strerror}") from None
    with directory as folder:
        yield folder
