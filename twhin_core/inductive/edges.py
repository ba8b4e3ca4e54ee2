"""Edges between the nodes to embed and trained nodes, a block of whole nodes at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twhin_core.config.relation import negative_relations
from twhin_core.errors import UserError, one_line
from twhin_core.parquet import open_parquet
from twhin_core.paths import find_files
from twhin_core.schema import OTHER, SIDES, Schema
from twhin_core.vectors.ids import IDS_PER_BATCH, Ids
from twhin_core.vectors.ids import SCHEMA as IDS
from twhin_core.vectors.matching import fill, in_one_line, open_database
from twhin_core.vectors.rows import Ints, Rows

SCHEMA = pa.schema([("lhs", pa.string()), ("relation", pa.string()), ("rhs", pa.string()), ("weight", pa.float64())])
"""Of the edges: the ids of both ends, and the name of the relation."""
OPTIONAL = "weight"
ENDS_PER_BLOCK = 1 << 17


class TrainedVectors(Protocol):
    """The vectors and ids of a trained run. A position means the same node in both."""

    def ids(self, table: str) -> Ids: ...

    def rows(self, table: str) -> Rows: ...


@dataclass(frozen=True)
class Known:
    """The nodes of a trained run. `degrees`: by table, the training degree of each row; None: all were trained."""

    vectors: TrainedVectors
    degrees: Mapping[str, Ints | None]

    def trained(self, table: str) -> Iterator[pa.RecordBatch]:
        """(index: int64, id: string) of the trained nodes of a table, with their positions as the index."""
        degrees, first = self.degrees[table], 0
        for batch in self.vectors.ids(table).batches(IDS_PER_BATCH):
            found = pa.RecordBatch.from_arrays([np.arange(first, first + len(batch)), batch["id"]], schema=IDS)
            first += len(batch)
            yield found if degrees is None else found.filter(pa.array(degrees[batch["index"].to_numpy()] > 0))


@dataclass(frozen=True)
class Block:
    """Nodes to embed, and the E ends of their edges: one for each end of an edge that is such a node."""

    names: pa.StringArray
    """[n] ids of the nodes."""
    node: Ints
    """[E] position of the node in `names`, ascending."""
    rel: Ints
    """[E]"""
    asks_rhs: npt.NDArray[np.bool_]
    """[E] whether the node is the lhs, so that the other node answers a query for the rhs."""
    other: Ints
    """[E] position of the other node in its table."""
    weight: npt.NDArray[np.float32]
    """[E]"""

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Counts:
    """What became of the edges."""

    edges: int = 0
    ends: int = 0
    """Ends that are nodes to embed, with a trained node at the other end."""
    unknown_relations: int = 0


def read_files(pattern: str) -> Iterator[pa.RecordBatch]:
    """The edges of Parquet files. Raises UserError if there is none, or it lacks a column or has a bad weight."""
    for file in find_files(pattern):
        with open_parquet(file.url) as opened:
            for batch in opened.iter_batches():
                yield from checked(pa.Table.from_batches([batch]), file.url)


def checked(edges: pa.Table, origin: str) -> Iterator[pa.RecordBatch]:
    """Edges with the columns of `SCHEMA`. Raises UserError if one is missing or cannot be one."""
    for name in SCHEMA.names:
        if name not in edges.column_names and name != OPTIONAL:
            raise UserError(f"{origin}: has no column {name}; edges need lhs, relation and rhs, and may have weight")
    if OPTIONAL not in edges.column_names:
        edges = edges.append_column(OPTIONAL, pa.repeat(pa.scalar(1.0), edges.num_rows))
    try:
        edges = edges.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{origin}: {one_line(error)}") from None
    weight = edges[OPTIONAL].to_numpy()
    if not (np.isfinite(weight) & (weight > 0)).all():
        raise UserError(f"{origin}: a weight is not a positive number")
    yield from edges.to_batches()


def blocks(
    schema: Schema,
    known: Known,
    table: str,
    edges: Iterable[pa.RecordBatch],
    with_known: bool,
    share: tuple[int, int],
    folder: Path,
    memory: int,
    counts: Counts,
) -> Iterator[Block]:
    """The nodes of `table` in the order of their ids, with their edges to trained nodes.

    Args:
        with_known: whether to embed trained nodes too.
        share: (i, n): only every n-th node, by a hash of its id, from the i-th on.
        folder: for what does not fit into `memory`, in bytes.
        counts: is filled before the first block.

    Raises:
        UserError: a vocabulary is broken, DuckDB needs more memory, or `folder` is full.
    """
    too_small = "evaluation.memory_limit: too small to sort these edges; raise it"
    unread = "the edges cannot be joined with the trained nodes"
    with in_one_line(folder, too_small, unread), open_database(folder / "edges.duckdb", memory) as database:
        _load(database, schema, known, edges)
        ends = _join(database, schema, table, with_known, share)
        counts.edges, counts.unknown_relations = _one_row(
            database, "SELECT count(*), count(*) FILTER (relation NOT IN (SELECT name FROM relations)) FROM edges"
        )
        (counts.ends,) = _one_row(database, "SELECT count(*) FROM ends")
        yield from _cut(ends.to_arrow_reader(ENDS_PER_BLOCK))


def _load(database: duckdb.DuckDBPyConnection, schema: Schema, known: Known, edges: Iterable[pa.RecordBatch]) -> None:
    """Creates the tables edges, relations, and ids: the positions of all trained nodes.

    Relations of explicit negatives are not among the relations: they have no operator that was trained.
    """
    fill(database, "edges", SCHEMA, edges)
    never_trained = negative_relations(schema.relations)
    relations = pa.table({
        "name": pa.array(schema.names, pa.string()),
        "rel": np.arange(len(schema.relations)),
        "rel_weight": np.array([of.weight for of in schema.relations]),
        **{f"{side}_table": schema.table_numbers[side] for side in SIDES},
    })  # fmt: skip
    relations = relations.filter(pa.array([name not in never_trained for name in schema.names], pa.bool_()))
    fill(database, "relations", relations.schema, relations.to_batches())
    for number, name in enumerate(schema.tables):
        fill(database, f"ids_{number}", IDS, known.trained(name))


def _join(
    database: duckdb.DuckDBPyConnection, schema: Schema, table: str, with_known: bool, share: tuple[int, int]
) -> duckdb.DuckDBPyRelation:
    """Creates the table `ends`, and returns it in the order of nodes. All names in the SQL are our own."""
    tables = list(schema.tables)
    own, (index, of) = tables.index(table), share
    # Only numbers and names of our own are in this SQL.
    parts = [
        f"SELECT edges.{side} AS node, rel, {side == 'lhs'} AS asks_rhs, ids.index AS other, "  # noqa: S608
        "weight * rel_weight AS weight "
        f"FROM edges JOIN relations ON relation = name JOIN ids_{number} AS ids ON ids.id = edges.{OTHER[side]} "
        f"WHERE {side}_table = {own} AND {OTHER[side]}_table = {number}"
        for side in SIDES
        for number in range(len(tables))
    ]
    wanted = [f"hash(node) % {of} = {index}"]
    if not with_known:
        wanted.append(f"node NOT IN (SELECT id FROM ids_{own})")  # noqa: S608
    query = f"SELECT * FROM ({' UNION ALL '.join(parts)}) WHERE {' AND '.join(wanted)}"  # noqa: S608
    database.execute(f"CREATE TEMP TABLE ends AS {query}")
    return database.sql("SELECT * FROM ends ORDER BY node, rel, asks_rhs, other")


def _one_row(database: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    (row,) = database.execute(query).fetchall()
    return tuple(map(int, row))


def _cut(batches: Iterable[pa.RecordBatch]) -> Iterator[Block]:
    """Blocks of whole nodes. A node's edges may be spread over several batches."""
    pending = pa.table({})
    for batch in batches:
        arrived = pa.Table.from_batches([batch])
        pending = pa.concat_tables([pending, arrived]) if pending.num_rows else arrived
        names = pending["node"].combine_chunks()
        is_last = np.asarray(names.dictionary_encode().indices) if len(names) else np.empty(0)
        whole = int(np.searchsorted(is_last, is_last[-1])) if len(is_last) else 0
        if whole:
            yield _block(pending.slice(0, whole))
            pending = pending.slice(whole)
    if pending.num_rows:
        yield _block(pending)


def _block(ends: pa.Table) -> Block:
    names = ends["node"].combine_chunks().dictionary_encode()
    return Block(
        names.dictionary,
        np.asarray(names.indices).astype(np.int64),
        ends["rel"].to_numpy(),
        ends["asks_rhs"].to_numpy(),
        ends["other"].to_numpy(),
        ends["weight"].to_numpy().astype(np.float32),
    )
