"""Pairs of ids from files, as rows of their tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from twhin_core.embeddings.result import Vectors
from twhin_core.embeddings.search import Query
from twhin_core.errors import UserError, one_line
from twhin_core.parquet import open_parquet
from twhin_core.paths import find_files
from twhin_core.schema import OTHER
from twhin_core.vectors.ids import IDS_PER_BATCH, SCHEMA, Ints
from twhin_core.vectors.matching import fill, in_one_line, open_database

PAIRS = pa.schema([("lhs", pa.string()), ("rhs", pa.string())])


def given_pairs(source: Vectors, query: Query, pattern: str, folder: Path, memory: int) -> Iterator[tuple[Ints, Ints]]:
    """(node's row, candidate's row) of the pairs in files; those of unknown ids are left out.

    The candidates of a query for the rhs are in the column `rhs`, as are those of a query without a relation.

    Args:
        folder: for files.
        memory: bytes that DuckDB may use.

    Raises:
        UserError: a file is broken, lacks a column, or has ids that are no text; or DuckDB needs more memory.
    """
    too_small = "evaluation.memory_limit: too small to join these pairs with the ids; raise it"
    with (
        in_one_line(folder, too_small, "the pairs cannot be joined with the ids"),
        open_database(folder / "pairs.duckdb", memory) as database,
    ):
        for name, columns, batches in (
            ("pairs", PAIRS, _read(pattern)),
            ("nodes", SCHEMA, source.ids(query.table).batches(IDS_PER_BATCH)),
            ("candidates", SCHEMA, source.ids(query.candidates).batches(IDS_PER_BATCH)),
        ):
            fill(database, name, columns, batches)
        joined = database.sql(
            "SELECT nodes.index AS node, candidates.index AS candidate FROM pairs "  # noqa: S608 -- only our own names
            f"JOIN nodes ON nodes.id = {OTHER[query.side]} JOIN candidates ON candidates.id = {query.side}"
        )
        for batch in joined.to_arrow_reader(IDS_PER_BATCH):
            yield batch["node"].to_numpy(), batch["candidate"].to_numpy()


def _read(pattern: str) -> Iterator[pa.RecordBatch]:
    for file in find_files(pattern):
        with open_parquet(file.url) as opened:
            lacking = set(PAIRS.names) - set(opened.schema_arrow.names)
            if lacking:
                raise UserError(f"{file.url}: has no column {min(lacking)}; pairs have the columns lhs and rhs")
            for batch in opened.iter_batches(columns=PAIRS.names):
                try:
                    yield batch.cast(PAIRS)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise UserError(f"{file.url}: {one_line(error)}") from None
