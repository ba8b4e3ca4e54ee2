"""Vectors of nodes that were made elsewhere, such as by a model of texts or images: Parquet files of ids and vectors.

Files are streamed, and every row is checked as it is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twhin_core.config import Table
from twhin_core.errors import UserError
from twhin_core.graph.changes import entries_of
from twhin_core.graph.content_rows import check_content
from twhin_core.graph.raw_files import MAX_OPEN_FILES, check_sources
from twhin_core.parquet import open_parquet
from twhin_core.vectors.ids import SCHEMA, Ints
from twhin_core.vectors.matching import IDS_AT_ONCE, Names, fill, in_one_line, open_database

Doubles = npt.NDArray[np.float64]

BATCH_BYTES = 16 << 20
"""Of the vectors that are in memory at once."""
BUFFER_BYTES = 1 << 20
MATCHING_BYTES = 1 << 30
"""Memory of the database that ids are compared in."""
SEED = 0
"""Of the map between dimensions: always the same, so that tables and versions with vectors of one encoder fit."""


class OutsideVectors:
    """The vectors that a table's `initial` names, by position, which counts the rows of all files one after another.

    Implements `matching.IdBatches`: its ids by position.
    """

    def __init__(self, table: Table, number: int) -> None:
        """Opens the files. `number`: the position of the table in the config.

        Raises:
            UserError: no file matches, or one is broken, lacks a column, has one of an unusable type or has vectors of
                another width than the file before; or there is no row.
        """
        assert table.initial is not None
        self.path, self._id, self._column = table.initial.path, table.initial.id, table.initial.column
        source = table.initial.as_source(number)
        self.key, self._table = source.key, table
        found = check_sources([source])
        check_content(found)
        self._urls = [file.url for raw in found for file in raw.files]
        self.files = entries_of(found)
        with ThreadPoolExecutor(MAX_OPEN_FILES) as pool:
            self._rows = list(pool.map(self._count_rows, self._urls))
        self.size = sum(self._rows)
        self.width = self._find_width()

    def _count_rows(self, url: str) -> int:
        with open_parquet(url) as file:
            for use, name in (("id", self._id), ("column", self._column)):
                if name not in file.schema_arrow.names:
                    raise UserError(f"{url}: column {name!r} ({self.key}.{use}) is in its path, not in the file")
            return int(file.metadata.num_rows)

    def _find_width(self) -> int:
        for url, rows in zip(self._urls, self._rows, strict=True):
            if rows:
                with open_parquet(url, BUFFER_BYTES) as file:
                    first = next(file.iter_batches(1, columns=[self._column]))
                width: int = len(first.column(0)[0] or [])
                if not width:
                    raise UserError(f"{url}: row 0 has no vector in {self._column!r} ({self.key}.column)")
                return width
        raise UserError(f"{self.key}.path: {self.path} has no rows")

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """All ids as (index: int64, id: string): the positions and the ids as prepare writes them.

        Raises:
            UserError: a file is broken, or a row has no id.
        """
        first = 0
        for url, start, batch in self._read(self._id, batch_rows):
            ids = _as_text(batch)
            if ids.null_count:
                row = start + pc.index(ids.is_null(), True).as_py()
                raise UserError(f"{url}: row {row} has no id in {self._id!r} ({self.key}.id)")
            yield pa.RecordBatch.from_arrays([pa.array(np.arange(first, first + len(ids))), ids], schema=SCHEMA)
            first += len(ids)

    def vectors(self) -> Iterator[Doubles]:
        """All vectors, [n, width] at a time.

        Raises:
            UserError: a file is broken, or a row has no vector, one of another width, a number that is not finite in
                the table's type or, if the table's rows have length 1, only zeros.
        """
        width, of_type = self.width, np.float16 if self._table.data_type == "fp16" else np.float32
        for url, start, lists in self._read(self._column, max(1, BATCH_BYTES // (8 * width))):
            lengths: Ints = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
            self._refuse(
                np.not_equal(lengths, width), url, start, f"has a vector of {{}} numbers, others of {width}", lengths
            )
            values: Doubles = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, width)
            with np.errstate(over="ignore"):
                stored = values.astype(of_type)
            self._refuse(
                ~np.isfinite(stored).all(1), url, start, f"has a number that is not finite in {self._table.data_type}"
            )
            if self._table.is_spherical:
                self._refuse(
                    np.equal(stored, 0).all(1), url, start, "has only zeros, and spherical_adagrad needs a direction"
                )
            yield values

    def check(self, folder: Path) -> None:
        """Reads everything. `folder`: for temporary files, as `check_unique`. Raises UserError as all methods do."""
        self.check_unique(folder)
        for _ in self.vectors():
            pass

    def check_unique(self, folder: Path) -> None:
        """Raises UserError if an id has several vectors. Spills to `folder` what exceeds `MATCHING_BYTES`."""
        names = self.names
        with (
            in_one_line(folder, f"{names.key}: {names.nodes} need more memory", f"{names.key}: {names.nodes}"),
            open_database(folder / "ids.duckdb", MATCHING_BYTES) as database,
        ):
            fill(database, "given", SCHEMA, self.batches(IDS_AT_ONCE))
            query = "SELECT id, count(*) FROM given GROUP BY id HAVING count(*) > 1 ORDER BY min(index) LIMIT 1"
            for name, count in database.execute(query).fetchall():
                raise UserError(f"{self.key}.path: {self.path} has {count} vectors of the id {name!r}; keep one")

    @property
    def names(self) -> Names:
        """What errors call them where ids are matched."""
        return Names(f"{self.size:,} vectors of {self.path}", self.key, f"table {self._table.name}", None)

    def _read(self, column: str, batch_rows: int) -> Iterator[tuple[str, int, pa.Array]]:
        """The URL of a file, the number of a row in it, and the values from there on."""
        for url, rows in zip(self._urls, self._rows, strict=True):
            start = 0
            with open_parquet(url, BUFFER_BYTES) as file:
                for batch in _batches(file, column, batch_rows):
                    yield url, start, batch
                    start += len(batch)
            if start != rows:
                raise UserError(f"{url}: has {start:,} rows instead of {rows:,}")

    def _refuse(
        self, is_wrong: npt.NDArray[np.bool_], url: str, start: int, problem: str, values: Ints | None = None
    ) -> None:
        """Raises UserError for the first row that is wrong. `values`: by row, what `problem` names."""
        if is_wrong.any():
            row = int(is_wrong.argmax())
            said = problem if values is None else problem.format(values[row])
            raise UserError(f"{url}: row {start + row}: {self._column!r} ({self.key}.column) {said}")


def _batches(file: pq.ParquetFile, column: str, batch_rows: int) -> Iterator[pa.Array]:
    for batch in file.iter_batches(batch_rows, columns=[column], use_threads=False):
        yield batch.column(0)


def _as_text(ids: pa.Array) -> pa.StringArray:
    """Ids as prepare writes them."""
    if isinstance(ids, pa.ExtensionArray):
        ids = ids.storage
    if pa.types.is_fixed_size_binary(ids.type):
        return pa.array([None if of is None else str(UUID(bytes=of)) for of in ids.to_pylist()], pa.string())
    return ids.cast(pa.string())


def random_map(width: int, dim: int) -> Doubles:
    """The fixed map from vectors of `width` numbers to those of `dim`: v → v @ map, [width, dim].

    Its entries are independent draws from Normal(0, 1/dim), so that squared lengths and dot products stay what they
    were on average over such maps; with the relative error √(2/dim) for a squared length.
    """
    state = np.random.RandomState(SEED)  # its stream is the same in all versions of NumPy
    drawn: Doubles = state.standard_normal((width, dim)) / math.sqrt(dim)
    return drawn


def fitted(vectors: Doubles, to: Doubles | None, is_unit: bool) -> Doubles:
    """Vectors as rows of a table: mapped by `to`, and of length 1 if `is_unit`: [n, width] → [n, dim]."""
    rows = vectors if to is None else vectors @ to
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if is_unit else rows


def outside_vectors(tables: list[Table]) -> dict[str, OutsideVectors]:
    """Those of the tables that have some. Raises UserError as `OutsideVectors`."""
    return {table.name: OutsideVectors(table, at) for at, table in enumerate(tables) if table.initial is not None}
