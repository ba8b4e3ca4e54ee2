"""The nodes that get a list, in the order of their ids, which is the order that key-value stores load fastest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core.embeddings.known import Numbered, numbered
from twhin_core.vectors.ids import IDS_PER_BATCH, SCHEMA, Ids
from twhin_core.vectors.matching import fill, in_one_line, open_database


@dataclass(frozen=True)
class NumberedUsers(Numbered):
    """U users with a number each. A part is a range of numbers: users whose lists are made at once."""

    per_part: int

    @property
    def parts(self) -> int:
        return max(1, -(-len(self.row) // self.per_part))

    def part(self, part: int) -> slice:
        """The numbers of the users of a part."""
        return slice(part * self.per_part, min((part + 1) * self.per_part, len(self.row)))


@dataclass(frozen=True)
class Users(NumberedUsers):
    """Users in the order of their ids, those of a part in a file of lists."""

    unknown: int
    """How many of the ids that were asked for the table does not have."""
    names: Path

    def ids(self, part: int) -> pa.StringArray:
        """The ids of the users of a part."""
        with pq.ParquetFile(self.names) as file:
            if part >= file.num_row_groups:
                return pa.array([], pa.string())
            return file.read_row_group(part)["id"].combine_chunks()


def find_users(ids: Ids, rows: int, asked: list[str] | None, per_part: int, folder: Path, memory: int) -> Users:
    """The users with the ids `asked`, or all.

    Args:
        rows: of their table.
        folder: for files, which the result needs.
        memory: bytes that sorting may use; the result has 16 bytes for each user.

    Raises:
        UserError: a vocabulary is broken, DuckDB needs more memory, or `folder` is full.
    """
    found, names = [np.empty(0, np.int64)], folder / "users.parquet"
    too_small = "evaluation.memory_limit: too small to sort the ids of the users; raise it"
    with (
        in_one_line(folder, too_small, "the ids of the users cannot be sorted"),
        open_database(folder / "users.duckdb", memory) as database,
        pq.ParquetWriter(names, SCHEMA) as writer,
    ):
        fill(database, "ids", SCHEMA, ids.batches(IDS_PER_BATCH))
        if asked is not None:
            table = pa.table({"id": pa.array(asked, pa.string())})
            fill(database, "asked", table.schema, table.to_batches())
        for part in _parts(database, asked is not None, per_part):
            writer.write_table(part, per_part)
            found.append(part["index"].to_numpy())
    of = numbered(np.concatenate(found), rows)
    return Users(of.row, of.number, per_part, 0 if asked is None else len(asked) - len(of.row), names)


def _parts(database: duckdb.DuckDBPyConnection, has_asked: bool, per_part: int) -> Iterator[pa.Table]:
    """(index, id) of the users, `per_part` at a time."""
    wanted = "WHERE id IN (SELECT id FROM asked)" if has_asked else ""
    query = f"SELECT index, id FROM ids {wanted} ORDER BY id"  # noqa: S608 -- only names of our own
    pending, rows = list[pa.RecordBatch](), 0
    for batch in database.sql(query).to_arrow_reader(IDS_PER_BATCH):
        while rows + len(batch) >= per_part:
            pending.append(batch.slice(0, per_part - rows))
            yield pa.Table.from_batches(pending, SCHEMA)
            batch, pending, rows = batch.slice(per_part - rows), [], 0
        pending.append(batch)
        rows += len(batch)
    if rows:
        yield pa.Table.from_batches(pending, SCHEMA)
