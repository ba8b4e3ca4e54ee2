"""What is left out of the lists: the known edges of users, and pairs from a file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from twhin_core.data.files import EdgeFiles
from twhin_core.errors import UserError, one_line
from twhin_core.parquet import open_parquet
from twhin_core.paths import find_files
from twhin_core.ranking.pair_files import PairFiles
from twhin_core.ranking.queries import Ints
from twhin_core.recommend.users import Users
from twhin_core.schema import Side
from twhin_core.vectors.ids import IDS_PER_BATCH, SCHEMA, Ids
from twhin_core.vectors.matching import fill, in_one_line, open_database

PAIRS = pa.schema([("lhs", pa.string()), ("rhs", pa.string())])


def known_pairs(splits: Iterable[EdgeFiles], sides: Mapping[int, Side], users: Users) -> Iterator[tuple[Ints, Ints]]:
    """(user's number, candidate's row) of the edges of some relations, in blocks.

    Args:
        sides: the end at which the users are, by relation.
    """
    for files in splits:
        for edges in files.chunks():
            for rel, side in sides.items():
                of = edges.take(edges.rel == rel)
                user, candidate = (of.lhs, of.rhs) if side == "lhs" else (of.rhs, of.lhs)
                number = users.number[user]
                yield number[number >= 0], candidate[number >= 0]


def given_pairs(
    pattern: str, users: Ids, candidates: Ids, numbers: Users, folder: Path, memory: int
) -> Iterator[tuple[Ints, Ints]]:
    """(user's number, candidate's row) of the pairs of ids in files; those of unknown ids are left out.

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
            ("users", SCHEMA, users.batches(IDS_PER_BATCH)),
            ("candidates", SCHEMA, candidates.batches(IDS_PER_BATCH)),
        ):
            fill(database, name, columns, batches)
        joined = database.sql(
            "SELECT users.index AS user, candidates.index AS candidate FROM pairs "
            "JOIN users ON users.id = lhs JOIN candidates ON candidates.id = rhs"
        )
        for batch in joined.to_arrow_reader(IDS_PER_BATCH):
            number = numbers.number[batch["user"].to_numpy()]
            yield number[number >= 0], batch["candidate"].to_numpy()[number >= 0]


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


def collect(pairs: Iterable[tuple[Ints, Ints]], users: Users, mine: Collection[int], folder: Path) -> PairFiles:
    """The pairs of the parts `mine`, in files below `folder`."""
    part = np.arange(len(users.row)) // users.per_part
    files = PairFiles(folder / "pairs", np.where(np.isin(part, list(mine)), part, -1))
    for number, row in pairs:
        files.add(number, row)
    files.flush()
    return files
