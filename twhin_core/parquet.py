"""Parquet parts: a stream of record batches as numbered files, each listed with its rows and checksum."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from twhin_core import storage
from twhin_core.errors import UserError

ROWS_PER_GROUP = 131_072
ROWS_PER_FILE = 4_194_304


class FileEntry(BaseModel):
    """A file as a manifest lists it; `path` is relative to the run root."""

    path: str
    rows: int
    sha256: str


def write_parts(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, root: str, folder: str, rows_per_file: int = ROWS_PER_FILE
) -> list[FileEntry]:
    """Writes `batches` in order to `<root>/<folder>/part-00000.parquet` and on, `rows_per_file` rows a file.

    What was in the folder is removed first. There is always at least one file, so that no rows still have a schema.
    """
    storage.remove(storage.join(root, folder))
    entries: list[FileEntry] = []
    pieces = _pieces(batches, rows_per_file)
    piece = next(pieces, None)
    while piece is not None or not entries:
        path = f"{folder}/part-{len(entries):05d}.parquet"
        rows = 0
        with storage.open_write(storage.join(root, path)) as file:
            checksum = storage.ChecksumWriter(file)
            with pq.ParquetWriter(pa.PythonFile(checksum, mode="w"), schema, compression="zstd") as writer:
                while piece is not None and rows + piece.num_rows <= rows_per_file:
                    writer.write_batch(piece, row_group_size=ROWS_PER_GROUP)
                    rows += piece.num_rows
                    piece = next(pieces, None)
        entries.append(FileEntry(path=path, rows=rows, sha256=checksum.hexdigest()))
    return entries


def _pieces(batches: Iterable[pa.RecordBatch], rows_per_file: int) -> Iterator[pa.RecordBatch]:
    """The same rows, cut also wherever a file ends."""
    written = 0
    for batch in batches:
        while batch.num_rows:
            rows = min(batch.num_rows, rows_per_file - written % rows_per_file)
            yield batch.slice(0, rows)
            written += rows
            batch = batch.slice(rows)


@contextlib.contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """The Parquet file at `url`. Raises UserError if it, or what is read of it, is truncated or not Parquet."""
    fs, path = storage.arrow_filesystem(url)
    try:
        with pq.ParquetFile(path, filesystem=fs) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{url}: not a whole Parquet file: {str(error).splitlines()[0]}") from None
