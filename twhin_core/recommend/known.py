"""What is left out of the lists: the known edges of users, and pairs from a file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from twhin_core import sizes
from twhin_core.config.recommend import Recommend
from twhin_core.data.files import EdgeFiles
from twhin_core.embeddings.known import known_sides
from twhin_core.embeddings.search import Query
from twhin_core.errors import UserError, one_line
from twhin_core.export.vector_set import TrainedRun
from twhin_core.parquet import open_parquet
from twhin_core.paths import find_files
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.pair_files import PairFiles
from twhin_core.ranking.queries import Ints
from twhin_core.recommend.users import NumberedUsers
from twhin_core.schema import Schema, Side
from twhin_core.vectors.ids import IDS_PER_BATCH, SCHEMA, Ids
from twhin_core.vectors.matching import fill, in_one_line, open_database

PAIRS = pa.schema([("lhs", pa.string()), ("rhs", pa.string())])


def sides_of_users(schema: Schema, rel: int, settings: Recommend) -> dict[int, Side]:
    """The relations whose known edges are left out of the lists of a relation, and the end at which the users are.

    Raises:
        UserError: `exclude` names an unknown relation, or one between other tables.
    """
    name = schema.names[rel]
    query = Query(schema.table_of(rel, "lhs"), schema.table_of(rel, "rhs"), rel)
    excluded = [name] if settings.exclude is None else settings.exclude
    return known_sides(schema, query, excluded, f"recommend.{name}.exclude")


def left_out(
    run: TrainedRun, rel: int, settings: Recommend, splits: Iterable[EdgeFiles], users: NumberedUsers, folder: Path
) -> Iterator[tuple[Ints, Ints]]:
    """(user's number, candidate's row) of all that is left out of the lists of a relation.

    Args:
        splits: the edges that are known.
        folder: for files.
    """
    lhs, rhs = (run.schema.table_of(rel, side) for side in ("lhs", "rhs"))
    sides, memory = sides_of_users(run.schema, rel, settings), sizes.in_bytes(run.config.evaluation.memory_limit)
    if sides:
        yield from known_pairs(splits, sides, users)
    if settings.exclude_edges is not None:
        yield from given_pairs(settings.exclude_edges, run.ids(lhs), run.ids(rhs), users, folder, memory // 4)
    if lhs == rhs:  # nobody is recommended to themselves
        yield np.arange(len(users.row)), users.row


def known_pairs(
    splits: Iterable[EdgeFiles], sides: Mapping[int, Side], users: NumberedUsers
) -> Iterator[tuple[Ints, Ints]]:
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
    pattern: str, users: Ids, candidates: Ids, numbers: NumberedUsers, folder: Path, memory: int
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


def collect(pairs: Iterable[tuple[Ints, Ints]], users: NumberedUsers, mine: Collection[int], folder: Path) -> PairFiles:
    """The pairs of the parts `mine`, in files below `folder`."""
    part = np.arange(len(users.row)) // users.per_part
    files = PairFiles(folder / "pairs", np.where(np.isin(part, list(mine)), part, -1))
    for number, row in pairs:
        files.add(number, row)
    files.flush()
    return files


def excluded(pairs: PairFiles, users: NumberedUsers, part: int, candidates: CandidateSet) -> tuple[Ints, Ints]:
    """(position among the part's users, column of `candidates`) of what is left out of their lists."""
    number, row = pairs.read(part)
    column, kept = candidates.columns(row)
    inside = column < candidates.size  # rows without an id are no candidates
    return number[kept][inside] - users.part(part).start, column[inside]
