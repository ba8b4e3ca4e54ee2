"""Parquet files: a stream of record batches as numbered parts, with their row counts and checksums."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter, crc32c, sha256
from twhin_core.errors import Damaged, TwhinError, UserError, damaged, one_line

T = TypeVar("T")

ROWS_PER_GROUP = 131_072
ROWS_PER_FILE = 4_194_304
VECTOR_BYTES_PER_GROUP = 16 << 20
"""Limits the rows of a row group with long vectors, because readers and writers hold a row group in memory."""


ID = "id"
NUMBERS = ("index", "lhs", "rhs", "time")
"""Columns of numbers of which most occur once or a few times in a row group."""


PIECE_BYTES = 4 << 20
"""Bytes that are read at once for a checksum."""


FOOTERS_HELD = 64
"""Parsed footers that are kept: a file is opened for each row group that is read."""


class Footer(NamedTuple):
    """The end of a Parquet file, which says where everything else is. The pages have checksums of their own."""

    size: int
    crc32c: str


class StoredFile(NamedTuple):
    """A Parquet file with its number of rows and, if it is known, its footer."""

    url: str
    rows: int
    footer: Footer | None = None


class FileEntry(BaseModel):
    """A manifest's entry for a file; `path` is relative to the run root.

    Entries of versions up to 0.1 have a SHA-256 only, and their files are read without a check.
    """

    path: str
    rows: int
    sha256: str
    size: int | None = None
    """In bytes."""
    crc32c: str | None = None
    footer: tuple[int, str] | None = None
    """The size and the CRC-32C of a Parquet file's footer."""

    def under(self, root: str) -> StoredFile:
        """The file under a run root."""
        footer = None if self.footer is None else Footer(*self.footer)
        return StoredFile(storage.join(root, self.path), self.rows, footer)

    def check(self, root: str) -> None:
        """Reads the whole file. Raises Damaged if it is missing or has changed."""
        url = storage.join(root, self.path)
        try:
            with storage.open_read(url) as file:
                parts = iter(lambda: file.read(PIECE_BYTES), b"")
                found = sha256(parts) if self.crc32c is None else crc32c(parts)
        except FileNotFoundError:
            raise damaged(url, "is missing") from None
        if found != (self.crc32c or self.sha256):
            raise damaged(url, "does not match its checksum")

    def is_whole(self, root: str) -> bool:
        """Whether `check` passes."""
        try:
            self.check(root)
        except Damaged:
            return False
        return True

    def is_there(self, root: str) -> bool:
        """Whether the file exists with its size, if that is known."""
        url = storage.join(root, self.path)
        return storage.exists(url) and self.size in (None, storage.size(url))


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
    """The arguments of `ParquetWriter`: vectors are not compressed, since zstd saves next to nothing on them.

    Columns with nearly as many values as rows get no dictionary. Ids are written as they are, and numbers as their
    differences: edges take 54 % of the space, and a third of the processor time to write and to read.
    """
    vectors = [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]
    packed = [field.name for field in schema if field.name in NUMBERS and field.type == pa.int64()]
    others = [field.name for field in schema if field.name not in vectors]
    leaves = [leaf for name in others for leaf in _leaves(name, schema.field(name).type)]
    plain = {f"{name}.list.element" for name in vectors}
    return {
        "compression": dict.fromkeys(plain, "none") | dict.fromkeys(others, "zstd") if plain else "zstd",
        "use_dictionary": [leaf for leaf in leaves if leaf not in (*packed, ID)],
        "column_encoding": dict.fromkeys(packed, "DELTA_BINARY_PACKED"),
        "write_statistics": others if plain else True,
    }


def _leaves(name: str, kind: pa.DataType) -> Iterator[str]:
    """The columns that Parquet stores for one that may be nested."""
    if pa.types.is_list(kind):
        yield from _leaves(f"{name}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for child in kind:
            yield from _leaves(f"{name}.{child.name}", child.type)
    else:
        yield name


def part_path(folder: str, number: int) -> str:
    return f"{folder}/part-{number:05d}.parquet"


def _write_file(groups: Iterable[tuple[int, pa.Table]], schema: pa.Schema, root: str, path: str) -> FileEntry:
    rows = 0
    with storage.open_write(storage.join(root, path)) as file:
        checksum = ChecksumWriter(file)
        output = pa.PythonFile(checksum, mode="w")
        with pq.ParquetWriter(output, schema, write_page_checksum=True, **encoding(schema)) as writer:
            for _, group in groups:
                writer.write_table(group)
                rows += group.num_rows
            footer = checksum.keep()
    size = sum(map(len, footer))
    return FileEntry(path=path, rows=rows, footer=(size, crc32c(footer)), **checksum.checksums())


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
    files: Sequence[StoredFile],
    wanted: Callable[[int, int], bool],
    read: Callable[[pq.ParquetFile, int], T],
    buffer_size: int = 0,
) -> Iterator[tuple[int, T]]:
    """(first row, `read(file, group)`) of every row group for whose rows [first, end) `wanted` is true.

    Rows count through all `files`. Raises as `open_parquet`.
    """
    end = 0
    for url, rows, footer in files:
        first, end = end, end + rows
        if not wanted(first, end):
            continue
        with open_parquet(url, buffer_size, footer) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if wanted(first, first + count):
                    yield first, read(file, group)
                first += count


def read_batches(file: pq.ParquetFile, group: int, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, at most `batch_rows` at a time. Raises ArrowInvalid for another number of rows."""
    rows = 0
    for batch in file.iter_batches(batch_rows, [group], columns, use_threads=False):
        rows += batch.num_rows
        yield batch
    expected = file.metadata.row_group(group).num_rows
    if rows != expected:
        raise pa.ArrowInvalid(f"row group {group} has {rows} rows instead of {expected}")


@contextlib.contextmanager
def open_parquet(url: str, buffer_size: int = 0, footer: Footer | None = None) -> Iterator[pq.ParquetFile]:
    """The Parquet file at `url`.

    With a `buffer_size`, columns are read that many bytes at a time instead of a row group at a time. Pages that have
    a checksum are compared with it as they are read.

    Raises:
        UserError: also from the block: the file, or a part of it that is read, is truncated or not Parquet.
        Damaged: the file is missing or does not end with `footer`.
    """
    fs, path = storage.arrow_filesystem(url)
    try:
        metadata = None if footer is None else _read_footer(url, footer)
        with pq.ParquetFile(
            path, metadata=metadata, filesystem=fs, buffer_size=buffer_size, page_checksum_verification=True
        ) as file:
            yield file
    except TwhinError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{url}: not a complete Parquet file: {one_line(error)}") from None


@functools.lru_cache(FOOTERS_HELD)
def _read_footer(url: str, footer: Footer) -> pq.FileMetaData:
    fs, path = storage.filesystem(url)
    try:
        end = fs.cat_file(path, start=-footer.size)
    except FileNotFoundError:
        raise damaged(url, "is missing") from None
    if crc32c([end]) != footer.crc32c:
        raise damaged(url, "its end does not match its checksum")
    return pq.read_metadata(pa.BufferReader(end))
