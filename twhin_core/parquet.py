"""Parquet files: a stream of record batches as numbered parts, with their row counts and checksums."""

from __future__ import annotations

import contextlib
import itertools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.errors import StorageError, UserError, one_line

T = TypeVar("T")

ROWS_PER_GROUP = 131_072
ROWS_PER_FILE = 4_194_304
VECTOR_BYTES_PER_GROUP = 16 << 20
"""Limits the rows of a row group with long vectors, because readers and writers hold a row group in memory."""


class FileEntry(BaseModel):
    """A manifest's entry for a file; `path` is relative to the run root."""

    path: str
    rows: int
    sha256: str


def write_parts(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, root: str, folder: str, rows_per_file: int = ROWS_PER_FILE
) -> list[FileEntry]:
    """Writes `batches` in order to `<root>/<folder>/part-00000.parquet` etc., with `rows_per_file` rows per file.

    Clears the folder first. The files only depend on the rows, not on the batch boundaries. Without rows, one empty
    file preserves the schema.
    """
    storage.remove(storage.join(root, folder))
    groups = _row_groups(batches, rows_per_group(schema), rows_per_file)
    entries = [
        _write_file(of_file, schema, root, part_path(folder, number))
        for number, of_file in itertools.groupby(groups, operator.itemgetter(0))
    ]
    return entries or [_write_file([], schema, root, part_path(folder, 0))]


def write_part(batches: Iterable[pa.RecordBatch], schema: pa.Schema, root: str, path: str) -> FileEntry:
    """Writes all of `batches` to one file."""
    return _write_file(_row_groups(batches, rows_per_group(schema), sys.maxsize), schema, root, path)


def rows_per_group(schema: pa.Schema) -> int:
    """Rows per row group, except for the last one of a file."""
    vectors = [field.type for field in schema if pa.types.is_fixed_size_list(field.type)]
    width = sum(vector.list_size * vector.value_type.bit_width // 8 for vector in vectors)
    return min(ROWS_PER_GROUP, max(1, VECTOR_BYTES_PER_GROUP // max(int(width), 1)))


def encoding(schema: pa.Schema) -> dict[str, Any]:
    """The arguments of `ParquetWriter`: vectors are not compressed, since zstd saves next to nothing on them."""
    plain = {f"{field.name}.list.element" for field in schema if pa.types.is_fixed_size_list(field.type)}
    others = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]
    return {
        "compression": dict.fromkeys(plain, "none") | dict.fromkeys(others, "zstd") if plain else "zstd",
        "use_dictionary": others if plain else True,
        "write_statistics": others if plain else True,
    }


def part_path(folder: str, number: int) -> str:
    return f"{folder}/part-{number:05d}.parquet"


def _write_file(groups: Iterable[tuple[int, pa.Table]], schema: pa.Schema, root: str, path: str) -> FileEntry:
    rows = 0
    with storage.open_write(storage.join(root, path)) as file:
        checksum = ChecksumWriter(file)
        with pq.ParquetWriter(pa.PythonFile(checksum, mode="w"), schema, **encoding(schema)) as writer:
            for _, group in groups:
                writer.write_table(group)
                rows += group.num_rows
    return FileEntry(path=path, rows=rows, sha256=checksum.hexdigest())


def _row_groups(
    batches: Iterable[pa.RecordBatch], group_rows: int, rows_per_file: int
) -> Iterator[tuple[int, pa.Table]]:
    """Row groups with the number of their file. They have `group_rows` rows; only the last of a file may be shorter."""
    pending: list[pa.RecordBatch] = []
    written = rows = 0
    for batch in batches:
        while batch.num_rows:
            room = min(group_rows, rows_per_file - written % rows_per_file) - rows
            pending.append(batch.slice(0, room))
            rows += pending[-1].num_rows
            batch = batch.slice(pending[-1].num_rows)
            if pending[-1].num_rows == room:
                yield written // rows_per_file, pa.Table.from_batches(pending).combine_chunks()
                written, rows, pending = written + rows, 0, []
    if pending:
        yield written // rows_per_file, pa.Table.from_batches(pending).combine_chunks()


def read_row_groups(
    files: Sequence[tuple[str, int]],
    wanted: Callable[[int, int], bool],
    read: Callable[[pq.ParquetFile, int], T],
    buffer_size: int = 0,
) -> Iterator[tuple[int, T]]:
    """(first row, `read(file, group)`) of every row group for whose rows [first, end) `wanted` is true.

    Rows count through all `files`, each a URL with its row count. Raises as `open_parquet`.
    """
    end = 0
    for url, rows in files:
        first, end = end, end + rows
        if not wanted(first, end):
            continue
        with open_parquet(url, buffer_size) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if wanted(first, first + count):
                    yield first, read(file, group)
                first += count


@contextlib.contextmanager
def open_parquet(url: str, buffer_size: int = 0) -> Iterator[pq.ParquetFile]:
    """The Parquet file at `url`.

    With a `buffer_size`, columns are read that many bytes at a time instead of a row group at a time.

    Raises:
        UserError: also from the block: the file, or a part of it that is read, is truncated or not Parquet.
    """
    fs, path = storage.arrow_filesystem(url)
    try:
        with pq.ParquetFile(path, filesystem=fs, buffer_size=buffer_size) as file:
            yield file
    except StorageError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{url}: not a complete Parquet file: {one_line(error)}") from None
