"""A data set: the edges of Parquet files, indexed by their footers and read in slices of row groups."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core import storage
from twhin_core.data.edges import NODES_AND_RELATION, WEIGHT, Edges, check_columns, from_batch
from twhin_core.parquet import Footer, open_parquet, read_batches
from twhin_core.schema import Schema

ROWS_PER_BATCH = 131_072
"""Rows decoded at once, which bounds the memory for large row groups."""

READ_BYTES = 4 * 2**20
"""Bytes of a column that are read at once, as stored."""

FOOTERS_PER_BATCH = 64


class RowGroupSlice(NamedTuple):
    """Rows [start, stop) of a row group. `first_row` is the position of the row group in its file."""

    url: str
    group: int
    first_row: int
    start: int
    stop: int
    footer: Footer | None = None


class SliceRange(NamedTuple):
    """Edges [start, stop) of slice `number` of a data set."""

    number: int
    start: int
    stop: int


class EdgeFiles:
    """The edges of the files at `urls`, in order, starting at edge `offset` and at most `limit` of them.

    Files and row groups may have any size, and integers any width. Only the footers' metadata is kept in memory.
    """

    def __init__(
        self,
        urls: Sequence[str],
        schema: Schema,
        offset: int = 0,
        limit: int | None = None,
        footers: Mapping[str, Footer] | None = None,
    ) -> None:
        """Reads the footers of the files that contain the edges.

        Args:
            footers: those that are known, by URL.

        Raises:
            Damaged: a file does not have the footer that is known.
            UserError: a file is not Parquet, lacks a column, or has an invalid edge according to the footer's
                statistics. All edges are validated when they are read.
        """
        self._schema, self._known = schema, footers or {}
        self._threads = 16 if any(map(storage.is_remote, urls)) else 2  # remote reads are bound by latency
        self._cursors: dict[int, _Cursor] = {}
        self.slices: list[RowGroupSlice] = []
        self.weighted = False
        self._heaviest: list[float] = []  # per slice, what the footer says of its row group
        digest = hashlib.sha256()
        skip, left = offset, limit
        for url, footer in self._footers(urls):
            digest.update(url.rsplit("/", 1)[-1].encode())
            self.weighted |= footer.is_weighted
            first_row = 0
            for group, (rows, heaviest, summary, seems_valid) in enumerate(footer.groups):
                start = min(skip, rows)
                stop = rows if left is None else min(rows, start + left)
                skip -= start
                left = left if left is None else left - (stop - start)
                if start < stop:
                    self.slices.append(RowGroupSlice(url, group, first_row, start, stop, self._known.get(url)))
                    self._heaviest.append(heaviest)
                    digest.update(f"{start} {stop} {summary}".encode())
                    if not seems_valid:
                        # Raises for an invalid edge of the slice, but not for one in the other rows of the group.
                        for _ in _Cursor(self.slices[-1], schema).read(start, stop):
                            pass
                first_row += rows
            if left == 0:
                break
        self.lengths = np.array([group_slice.stop - group_slice.start for group_slice in self.slices], np.int64)
        self.digest = digest.hexdigest()
        """A digest of the file names and footers, to tell data sets apart."""

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def _footers(self, urls: Sequence[str]) -> Iterator[tuple[str, _Footer]]:
        with ThreadPoolExecutor(self._threads) as pool:
            for first in range(0, len(urls), FOOTERS_PER_BATCH):
                batch = urls[first : first + FOOTERS_PER_BATCH]
                yield from zip(batch, pool.map(self._read_footer, batch), strict=True)

    def _read_footer(self, url: str) -> _Footer:
        with open_parquet(url, footer=self._known.get(url)) as file:
            check_columns(file.schema_arrow, url)
            return _Footer(file, self._schema)

    def load(self, parts: Sequence[SliceRange]) -> Edges:
        """The edges of `parts` in order, in new arrays. Raises as `from_batch`."""
        ends = np.cumsum([part.stop - part.start for part in parts])
        size = int(ends[-1])
        weight = np.empty(size, np.float32) if self.weighted else np.broadcast_to(np.float32(1), size)
        edges = Edges(np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64), weight)

        def fill(part: SliceRange, end: int) -> None:
            at = end - (part.stop - part.start)
            for piece in self._read(part):
                rows = slice(at, at + len(piece))
                edges.lhs[rows], edges.rel[rows], edges.rhs[rows] = piece.lhs, piece.rel, piece.rhs
                if self.weighted:
                    edges.weight[rows] = piece.weight
                at += len(piece)

        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(fill, parts, ends.tolist()):
                pass
        return edges

    def chunks(self, rank: int = 0, world_size: int = 1) -> Iterator[Edges]:
        """All edges in data set order, in chunks that are read-only views of decoded batches. Raises as `load`.

        With several ranks, each takes every `world_size`-th row group.
        """
        for number in range(rank, len(self.lengths), world_size):
            yield from self._read(SliceRange(number, 0, int(self.lengths[number])))

    def all(self) -> Edges:
        """All edges in data set order."""
        return self.load([SliceRange(number, 0, length) for number, length in enumerate(self.lengths.tolist())])

    def heaviest(self) -> Edges | None:
        """The edge of the largest weight, alone; None if edges have no weights. Reads a row group, rarely more."""
        found: Edges | None = None
        if self.weighted:
            for number in np.argsort(np.negative(self._heaviest), kind="stable").tolist():
                if found is not None and found.weight[0] >= self._heaviest[number]:
                    break
                for edges in self._read(SliceRange(number, 0, int(self.lengths[number]))):
                    at = int(edges.weight.argmax())
                    if found is None or edges.weight[at] > found.weight[0]:
                        found = edges.take(slice(at, at + 1))
        return found

    def _read(self, part: SliceRange) -> Iterator[Edges]:
        """The edges of a range. Continues decoding a partially read slice if the range starts where it stopped."""
        group_slice = self.slices[part.number]
        start, stop = group_slice.start + part.start, group_slice.start + part.stop
        cursor = self._cursors.pop(part.number, None)
        if cursor is None or cursor.row != start:
            cursor = _Cursor(group_slice, self._schema)
        yield from cursor.read(start, stop)
        if stop < group_slice.stop:
            self._cursors = {part.number: cursor}


class _Footer:
    """The metadata kept from a file's footer."""

    def __init__(self, file: pq.ParquetFile, schema: Schema) -> None:
        self.is_weighted = WEIGHT in file.schema_arrow.names
        self.groups: list[tuple[int, float, str, bool]] = []
        """Per row group: its rows, its largest weight (inf if unknown), a summary that tells it apart, and whether all
        its edges seem valid."""
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            columns = [group.column(position) for position in range(group.num_columns)]
            used = [column for column in columns if column.path_in_schema in (*NODES_AND_RELATION, WEIGHT)]
            sizes = " ".join(f"{column.total_uncompressed_size} {column.total_compressed_size}" for column in used)
            bounds = {column.path_in_schema: _bounds(column.statistics) for column in used}
            _, heaviest, _ = bounds.get(WEIGHT, (None, 1.0, 0))
            heaviest = math.inf if heaviest is None else float(heaviest)
            self.groups.append((group.num_rows, heaviest, f"{sizes} {bounds}", _seem_valid(bounds, schema)))


def _bounds(statistics: pq.Statistics | None) -> tuple[Any, Any, int]:
    """The minimum, the maximum and the number of nulls, if known."""
    if statistics is None or not statistics.has_min_max:
        return None, None, 0
    return statistics.min, statistics.max, statistics.null_count or 0


def _seem_valid(bounds: dict[str, tuple[Any, Any, int]], schema: Schema) -> bool:
    sides = schema.most_rows
    limits = {"lhs": sides["lhs"], "rhs": sides["rhs"], "rel": len(schema.relations), WEIGHT: math.inf}
    return all(
        not nulls and (low is None or (low >= 0 and high < limits[name])) for name, (low, high, nulls) in bounds.items()
    )


class _Cursor:
    """Reads a row group forwards, with one batch in memory at a time."""

    def __init__(self, group_slice: RowGroupSlice, schema: Schema) -> None:
        self.row = 0
        self._slice, self._schema = group_slice, schema
        self._batches = _decode(group_slice)
        self._rest = pa.RecordBatch.from_pylist([])

    def read(self, start: int, stop: int) -> Iterator[Edges]:
        """The edges of rows [start, stop) of the group; `start` must not be before `row`."""
        while self.row < stop:
            batch = self._rest if self._rest.num_rows else next(self._batches)
            skipped = min(max(start - self.row, 0), batch.num_rows)
            taken = batch.slice(skipped, stop - self.row - skipped)
            self._rest = batch.slice(skipped + taken.num_rows)
            self.row += skipped
            if taken.num_rows:
                first_row = self._slice.first_row + self.row
                self.row += taken.num_rows
                yield from_batch(taken, self._schema, self._slice.url, first_row)


def _decode(group_slice: RowGroupSlice) -> Iterator[pa.RecordBatch]:
    with open_parquet(group_slice.url, READ_BYTES, group_slice.footer) as file:
        columns = [name for name in (*NODES_AND_RELATION, WEIGHT) if name in file.schema_arrow.names]
        yield from read_batches(file, group_slice.group, columns, ROWS_PER_BATCH)
