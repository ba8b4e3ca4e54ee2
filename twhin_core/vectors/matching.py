"""Matches the rows of two tables by their ids, on disk."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import duckdb
import numpy as np
import pyarrow as pa

from twhin_core import limits
from twhin_core.errors import StorageRefused, TwhinError, UserError, one_line
from twhin_core.vectors.ids import SCHEMA

IDS_AT_ONCE = 131_072
ERRORS = (duckdb.Error, pa.ArrowException, OSError, MemoryError)
LEAST_MEGABYTES = 128


class IdBatches(Protocol):
    """Ids that can be read one after another, such as `Ids`."""

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """All ids as (index: int64, id: string), in ascending order, at most `batch_rows` at a time."""
        ...


class Names(NamedTuple):
    """What errors call what is matched."""

    nodes: str
    """Such as `40 nodes of table user`."""
    key: str
    """The config's key that names the earlier run."""
    root: str
    """That run."""
    limit: str | None
    """The config's key that limits the memory; None if none does."""


def match(path: Path, rows: range, here: IdBatches, there: IdBatches, memory: int, names: Names) -> None:
    """Writes to `path` the row of `there` that has the id of each of `rows` of `here`, or -1, as int64 [len(rows)].

    An inner join without a sort stays within DuckDB's limit: 20 million ids on each side fit into 128 MiB.

    Args:
        memory: bytes that DuckDB may use; `LEAST_MEGABYTES` if that is more.

    Raises:
        UserError: a vocabulary is broken, DuckDB needs more memory, or the folder of `path` is full.
    """
    too_small = f"{names.limit}: too small to match {names.nodes} with {names.root}; raise it"
    if names.limit is None:
        too_small = f"{names.key}: {names.nodes} need more memory to match with {names.root}"
    unread = f"{names.key}: {names.nodes} cannot be matched with {names.root}"
    with in_one_line(path.parent, too_small, unread):
        _join(path, rows, here, there, memory)


def shortage(error: Exception, folder: Path, too_small: str) -> UserError | None:
    """The UserError for a database in `folder` that lacks memory, which `too_small` says, or disk; None for neither."""
    text = str(error)
    if "Out of Memory" in text or isinstance(error, MemoryError):
        return UserError(too_small)
    if str(folder) in text or "max_temp_directory_size" in text or os.strerror(errno.ENOSPC) in text:
        return _no_room(error)
    return None


@contextlib.contextmanager
def in_one_line(folder: Path, too_small: str, unread: str) -> Iterator[None]:
    """Raises a UserError in place of an error of a database in `folder`.

    Args:
        too_small: what a lack of memory means.
        unread: what any other error means, but for a lack of disk.
    """
    try:
        yield
    except TwhinError:
        raise
    except ERRORS as error:
        raise shortage(error, folder, too_small) or UserError(f"{unread}: {one_line(error)}") from error


def fill(database: duckdb.DuckDBPyConnection, name: str, columns: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Creates a table. DuckDB does not read the batches by itself, because it would replace the errors of reading.

    Temporary tables move to the disk if memory is short. Others would be written there in any case, and compressed.
    """
    database.register("no_rows", columns.empty_table())
    database.execute(f"CREATE TEMP TABLE {name} AS FROM no_rows")
    database.unregister("no_rows")
    for batch in batches:
        database.from_arrow(pa.Table.from_batches([batch])).insert_into(name)


def _no_room(error: Exception) -> StorageRefused:
    return StorageRefused(f"{tempfile.gettempdir()}: is full or fails: {one_line(error)}; set TMPDIR to another folder")


def reserve(path: Path, size: int) -> None:
    """Makes a file of `size` bytes. Writing to a map of a file without room on the disk would end the process.

    Raises:
        StorageRefused: there is no room.
    """
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise _no_room(error) from error


def _join(path: Path, rows: range, here: IdBatches, there: IdBatches, memory: int) -> None:
    reserve(path, 8 * max(len(rows), 1))  # an empty file cannot be mapped
    found = np.memmap(path, np.int64, "r+")
    found[:] = -1
    with open_database(path.with_suffix(".duckdb"), memory) as connection:
        for name, batches in (("here", _within(here, rows)), ("there", there.batches(IDS_AT_ONCE))):
            fill(connection, name, SCHEMA, batches)
        pairs = connection.sql("SELECT here.index AS here, there.index AS there FROM here JOIN there USING (id)")
        for batch in pairs.to_arrow_reader(IDS_AT_ONCE):
            found[batch["here"].to_numpy() - rows.start] = batch["there"].to_numpy()
    found.flush()


@contextlib.contextmanager
def open_database(path: Path, memory: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new database at `path`, which is removed when the block ends.

    `memory`: bytes that DuckDB may use; `LEAST_MEGABYTES` if that is more.
    """
    megabytes = max(memory >> 20, LEAST_MEGABYTES)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{megabytes}MiB",
        "temp_directory": f"{path}.spill",
        "threads": min(limits.cores(), max(1, megabytes // 64)),  # each thread has buffers of its own
        "preserve_insertion_order": False,
    }
    try:
        with duckdb.connect(str(path), config=settings) as connection:
            connection.execute("SET enable_progress_bar = false")
            yield connection
    finally:
        path.unlink(missing_ok=True)


def _within(ids: IdBatches, rows: range) -> Iterator[pa.RecordBatch]:
    """The ids of `rows`, in order; reads no further."""
    for batch in ids.batches(IDS_AT_ONCE):
        first, last = np.searchsorted(batch["index"].to_numpy(), [rows.start, rows.stop])
        if first < last:
            yield batch.slice(first, last - first)
        if last < batch.num_rows:
            return
