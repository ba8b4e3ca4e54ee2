"""Maps between the rows of a table and their ids.

A position counts the rows that have an id, in the order of their index. It equals the row unless rows lack ids.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core.errors import NotFound, UserError
from twhin_core.parquet import Footer, StoredFile, open_parquet, read_row_groups

Ints = npt.NDArray[np.int64]
Id = str | int | np.integer[Any] | UUID
"""What may stand for an id where Python asks for one; see `id_text`."""

SCHEMA = pa.schema([("index", pa.int64()), ("id", pa.string())])

MAX_IDS_TO_COMPARE = 10_000_000
"""The number of ids that `similar_ids` compares with; two cores take a second for three million."""
IDS_PER_BATCH = 1 << 16


class Ids(Protocol):
    """The ids of a table."""

    @property
    def size(self) -> int:
        """The number of rows with an id."""

    @property
    def index(self) -> Ints | None:
        """The row of each position; None if they are equal."""

    def find(self, name: str) -> int | None:
        """The position of an id, or None if there is no such id."""
        ...

    def at(self, positions: Ints) -> list[str]:
        """The ids at the given positions."""
        ...

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """All ids as (index: int64, id: string), in ascending order, at most `batch_rows` at a time."""
        ...


class StoredIds:
    """Ids in Parquet files that are sorted by index. Only reads the row groups that it needs."""

    def __init__(
        self, files: Sequence[StoredFile], origin: str, sorted_runs: Sequence[int] | None, has_gaps: bool = False
    ) -> None:
        """
        Args:
            origin: the name of the files in error messages.
            sorted_runs: how many rows of the table each run of ids covers that is ordered by MD5, as prepare orders
                nodes, one run after another; None if the ids have another order. `find` then only searches near the
                positions that the hash suggests.
            has_gaps: whether some rows have no id. Needs 8 bytes of memory for each id.
        """
        self._files, self._origin, self._rows, self._has_gaps = files, origin, sorted_runs, has_gaps
        self.size = sum(file.rows for file in files)

    @cached_property
    def index(self) -> Ints | None:
        if not self._has_gaps:
            return None
        parts = [batch["index"].to_numpy() for batch in self.batches(IDS_PER_BATCH)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    @cached_property
    def _runs(self) -> Sequence[int] | None:
        """The number of ids in each run."""
        if self._rows is None or self.index is None:
            return self._rows
        ends = np.searchsorted(self.index, np.cumsum(self._rows))
        return [int(count) for count in np.diff(ends, prepend=0)]

    @property
    def is_hashed(self) -> bool:
        """Whether the hash of an id says where it is: see `windows`."""
        return self._rows is not None

    def windows(self, name: str) -> list[tuple[int, int]]:
        """Positions [start, stop) outside of which an id cannot be."""
        return [(0, self.size)] if self._runs is None else hash_windows(name, self._runs)

    def find(self, name: str) -> int | None:
        name = _encodable(name)
        windows = self.windows(name)
        for first, ids in self._read(lambda first, end: any(first < stop and start < end for start, stop in windows)):
            place = pc.index(ids, _scalar(name)).as_py()
            if place >= 0:
                return int(first + place)
        return None

    def at(self, positions: Ints) -> list[str]:
        wanted = np.unique(positions)
        found: dict[int, str] = {}
        for first, ids in self._read(lambda first, end: bool(np.diff(np.searchsorted(wanted, [first, end]))[0])):
            inside = wanted[slice(*np.searchsorted(wanted, [first, first + len(ids)]))]
            found.update(zip(inside.tolist(), ids.take(_array(inside - first)).to_pylist(), strict=True))
        return [found[position] for position in positions.tolist()]

    def _read(self, wanted: Callable[[int, int], bool]) -> Iterator[tuple[int, pa.ChunkedArray]]:
        """(first position, ids) of every row group for whose positions [first, end) `wanted` is true."""
        return read_row_groups(
            self._files, wanted, lambda file, group: file.read_row_group(group, ["id"])["id"].cast(pa.string())
        )

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        before = -1
        for url, _, footer in self._files:
            for batch in read_file(url, batch_rows, footer):
                before = _check_order(batch, before, self._origin)
                yield batch


def hash_windows(name: str, runs: Sequence[int]) -> list[tuple[int, int]]:
    """`_hash_window` in each run, as positions among all. `runs`: how many ids each has, one run after another."""
    windows = [_hash_window(name, size) for size in runs]
    starts = itertools.accumulate(runs, initial=0)
    return [
        (begin + max(start, 0), begin + min(stop, size))
        for begin, size, (start, stop) in zip(starts, runs, windows, strict=False)
    ]


def _hash_window(name: str, size: int) -> tuple[int, int]:
    """Positions [start, stop) outside of which an id cannot be among `size` ids in the order of their MD5.

    The number of n hashes that are below a share p of the hash space has the mean np and the standard deviation
    √(np(1 - p)) ≤ √n / 2. The window reaches eight standard deviations to either side.
    """
    digest = hashlib.md5(name.encode(), usedforsecurity=False).digest()
    expected = int.from_bytes(digest) * size >> 128
    reach = 4 * math.isqrt(size) + 4
    return expected - reach, expected + reach


class ListedIds:
    """Ids from Parquet files in any order, kept in memory."""

    def __init__(self, urls: Sequence[str], origin: str) -> None:
        """Raises UserError for a broken file, or an index that is negative or repeated."""
        batches = [batch for url in urls for batch in read_file(url, IDS_PER_BATCH)]
        self._table = pa.Table.from_batches(batches, SCHEMA).sort_by("index").combine_chunks()
        _check_order(self._table, -1, origin)
        self.size = self._table.num_rows
        index: Ints = self._table["index"].to_numpy()
        self.index = None if np.array_equal(index, np.arange(self.size)) else index

    def find(self, name: str) -> int | None:
        place = pc.index(self._table["id"], _scalar(_encodable(name))).as_py()
        return None if place < 0 else int(place)

    def at(self, positions: Ints) -> list[str]:
        names: list[str] = self._table["id"].take(_array(positions)).to_pylist()
        return names

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        yield from self._table.to_batches(batch_rows)


class NumberedIds:
    """Ids that are the rows' numbers."""

    index = None

    def __init__(self, size: int) -> None:
        self.size = size

    def find(self, name: str) -> int | None:
        is_number = name.isascii() and name.isdigit() and str(int(name)) == name
        return int(name) if is_number and int(name) < self.size else None

    def at(self, positions: Ints) -> list[str]:
        return [str(position) for position in positions.tolist()]

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        for start in range(0, self.size, batch_rows):
            index = pa.array(np.arange(start, min(start + batch_rows, self.size)))
            yield pa.RecordBatch.from_arrays([index, index.cast(pa.string())], schema=SCHEMA)


def find_positions(index: Ints | None, rows: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The positions of rows, and which of them have an id; the others' positions mean nothing. `index`: of the ids."""
    if index is None:
        return rows, np.ones(len(rows), np.bool_)
    positions = np.searchsorted(index, rows)
    return positions, index.take(positions, mode="clip") == rows if len(index) else np.zeros(len(rows), np.bool_)


def id_text(name: object) -> str:
    """The text that prepare makes of an id: of a string the string itself, of an integer its decimal digits.

    Raises:
        UserError: for anything but a string, an integer or a UUID.
    """
    if isinstance(name, str | int | np.integer | UUID) and not isinstance(name, bool):
        return str(name)
    raise UserError(f"{name!r} is not an id, but a {type(name).__name__}: give a string, an integer or a UUID")


def find_or_refuse(ids: Ids, table: str, name: str) -> int:
    """The position of an id. Raises NotFound, with similar ids, if there is no such id."""
    position = ids.find(name)
    if position is None:
        raise unknown_id(ids, table, name)
    return position


def unknown_id(ids: Ids, table: str, name: str, compared: int = MAX_IDS_TO_COMPARE) -> NotFound:
    """The error that no node of a table has the id `name`, with similar ones among the first `compared` ids."""
    near = similar_ids(ids, name, compared) if compared else []
    hint = f"; near it: {', '.join(map(repr, near))}" if near else "" if ids.size else ": the table is empty"
    return NotFound(f"{table}: no node has the id {name!r}{hint}")


def similar_ids(ids: Ids, name: str, compared: int = MAX_IDS_TO_COMPARE) -> list[str]:
    """The three ids with the smallest edit distance, among the first `compared`."""
    import duckdb  # only needed for mistakes

    names = pa.RecordBatchReader.from_batches(SCHEMA, _first(ids.batches(IDS_PER_BATCH), compared))
    with duckdb.connect() as database:
        database.register("names", names)
        query = "SELECT id FROM names ORDER BY levenshtein(id, ?), id LIMIT 3"
        return [found for (found,) in database.execute(query, [_encodable(name)]).fetchall()]


def _first(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.slice(0, rows)
        rows -= batch.num_rows
        if rows <= 0:
            return


# pa.array and pa.scalar import pandas to check for series, which takes a third of a second.


def _array(numbers: Ints) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def _scalar(text: str) -> pa.StringScalar:
    letters = text.encode()
    offsets = np.array([0, len(letters)], np.int32)
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(letters)])[0]


def _encodable(name: str) -> str:
    """Replaces bytes of a command line argument that are not text."""
    return name.encode(errors="replace").decode()


def read_file(url: str, batch_rows: int, footer: Footer | None = None) -> Iterator[pa.RecordBatch]:
    """Reads batches (index: int64, id: string) of a Parquet file, whose index may be any integer and its id any type.

    Raises:
        UserError: the file is broken, lacks a column or has an index of another type, or a row has no index or id.
    """
    with open_parquet(url, footer=footer) as file:
        names = file.schema_arrow.names
        for name in SCHEMA.names:
            if name not in names:
                raise UserError(f"{url}: has no column {name}; it has {', '.join(names)}")
        if not pa.types.is_integer(file.schema_arrow.field("index").type):
            raise UserError(f"{url}: column index is {file.schema_arrow.field('index').type}, not integers")
        row = 0
        for batch in file.iter_batches(batch_rows, columns=SCHEMA.names):
            for name in SCHEMA.names:
                if batch[name].null_count:
                    first = row + pc.index(batch[name].is_null(), True).as_py()
                    raise UserError(f"{url}: row {first}: {name} is null")
            row += batch.num_rows
            yield pa.RecordBatch.from_arrays(
                [batch["index"].cast(pa.int64()), batch["id"].cast(pa.string())], schema=SCHEMA
            )


def _check_order(rows: pa.RecordBatch | pa.Table, before: int, origin: str) -> int:
    """Returns the last index, or `before` without rows. Raises UserError unless the indices ascend from `before`."""
    index = rows["index"].to_numpy()
    steps = np.diff(index, prepend=before)
    if (steps <= 0).any():
        raise UserError(f"{origin}: index {index[(steps <= 0).argmax()]} is negative or repeated")
    return int(index[-1]) if len(index) else before
