"""What is exported: the vectors of a table, or of a relation's queries from it, each with its row and its id."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from twhin_core.checkpoints.checkpoint import Checkpoint
from twhin_core.config import Config
from twhin_core.data.prefetch import Ahead
from twhin_core.errors import UserError
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import VECTOR_BYTES_PER_GROUP
from twhin_core.progress import Progress
from twhin_core.schema import Schema
from twhin_core.vectors.ids import Ids
from twhin_core.vectors.names import NAMES_A_BATCH, name_rows, open_ids, read_names
from twhin_core.vectors.rows import Rows

Ints = npt.NDArray[np.int64]

BLOCK_BYTES = VECTOR_BYTES_PER_GROUP
"""Vectors that are read at once."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows: index int64 [n], id string [n], vectors float32 [n, dim]."""

    index: pa.Array
    id: pa.Array
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def slice(self, start: int, stop: int) -> Block:
        return Block(
            self.index.slice(start, stop - start), self.id.slice(start, stop - start), self.vectors[start:stop]
        )

    def embedding(self) -> pa.Array:
        """The vectors as a list column."""
        vector = pa.list_(pa.float32(), self.vectors.shape[1])
        return pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.numpy().reshape(-1)), type=vector)


@dataclass(frozen=True)
class Trained:
    """The run whose vectors are exported."""

    config: Config
    root: str
    checkpoint: Checkpoint
    schema: Schema

    def scorer(self) -> Scorer:
        """With the checkpoint's relations."""
        return self.checkpoint.scorer(self.config.model, self.schema.relations)


@dataclass(frozen=True)
class Source:
    """Vectors under one name. `rows` are those that the vocabulary names, in the order of their index."""

    name: str
    """Of the folder or file: a table's, or `<lhs>.<relation>`."""
    table: str
    relation: str | None
    """Whose operator was applied to vectors of its lhs, which makes them queries for its rhs."""
    rows: Rows
    index: Ints | None
    """The row in the table of each of `rows`; None where they are its first ones."""
    unnamed: int
    """Rows of the table that the vocabulary does not name."""
    run: Trained

    @property
    def dim(self) -> int:
        return self.rows.dim

    @property
    def size(self) -> int:
        return self.rows.size

    def names(self, batch_rows: int = NAMES_A_BATCH) -> Iterator[pa.RecordBatch]:
        """Batches (index, id) of the rows."""
        return read_names(self.run.config, self.run.root, self.table, self.size + self.unnamed, batch_rows)

    def blocks(self, progress: Progress) -> Iterator[Block]:
        """All rows in order; the next block is read while one is used."""
        block_rows = max(1, BLOCK_BYTES // (4 * self.dim))

        def read() -> Generator[Block]:
            start = 0
            for names in self.names(block_rows):
                vectors = self.rows.read(start, start + len(names))
                yield Block(names["index"], names["id"], vectors)
                start += len(names)

        with Ahead(read()) as ahead:
            for block in ahead:
                yield block
                progress.update(len(block))

    def sample(self, count: int, seed: int = 0) -> Ints:
        """`count` of the rows at random, or all if there are fewer; ascending places among `rows`."""
        if count >= self.size:
            return np.arange(self.size)
        return np.sort(np.random.default_rng(seed).choice(self.size, count, replace=False, shuffle=False))


def open_sources(run: Trained) -> list[Source]:
    """What the config asks to export; reads no vectors yet.

    Raises:
        UserError: `export.query_side` names no relation, or a vocabulary is broken.
    """
    export = run.config.export
    sources = [_open(run, table) for table in export.tables or run.schema.tables]
    if export.query_side is not None:
        sources.append(_open_queries(run, export.query_side))
    return [normalized(source) for source in sources] if export.normalize else sources


def _open(run: Trained, table: str) -> Source:
    size = run.schema.tables[table]
    ids = open_ids(run.config, run.root, table, size)
    rows = NamedRows(run.checkpoint.rows(table), ids)
    return Source(table, table, None, rows, ids.index, size - ids.size, run)


def _open_queries(run: Trained, relation: str) -> Source:
    names = [relation.name for relation in run.schema.relations]
    if relation not in names:
        raise UserError(f"export.query_side: no relation named {relation!r}; there are {', '.join(names)}")
    rel = names.index(relation)
    lhs = _open(run, run.schema.relations[rel].lhs)
    name = f"{lhs.table}.{quote(relation, safe='')}"  # a relation's name may be no file's
    return replace(lhs, name=name, relation=relation, rows=QueryRows(lhs.rows, run.scorer(), rel))


def normalized(source: Source) -> Source:
    """The same vectors at length 1."""

    def describe(place: int) -> str:
        row = place if source.index is None else int(source.index[place])
        size = source.size + source.unnamed
        (name,) = name_rows(source.run.config, source.run.root, source.table, size, np.array([row]))
        return f"export: {source.name}: the vector of {name!r}, row {row},"

    return replace(source, rows=UnitRows(source.rows, describe))


class NamedRows:
    """Those of other rows that have an id."""

    def __init__(self, rows: Rows, ids: Ids) -> None:
        self._rows, self._index = rows, ids.index
        self.size, self.dim = ids.size, rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._rows.read(start, stop) if self._index is None else self._rows.gather(self._index[start:stop])

    def gather(self, rows: Ints) -> Tensor:
        return self._rows.gather(rows if self._index is None else self._index[rows])


class UnitRows:
    """Other rows at length 1. A row without direction raises UserError, with what `describe` says of its place."""

    def __init__(self, rows: Rows, describe: Callable[[int], str]) -> None:
        self._rows, self._describe = rows, describe
        self.size, self.dim = rows.size, rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._units(self._rows.read(start, stop), range(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        return self._units(self._rows.gather(rows), rows)

    def _units(self, vectors: Tensor, rows: Ints | range) -> Tensor:
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        if not lengths.all():
            first = int((lengths == 0).squeeze(1).nonzero()[0])
            raise UserError(f"{self._describe(int(rows[first]))} is zero and has no direction to be normalized to")
        units: Tensor = vectors / lengths
        return units


class QueryRows:
    """Vectors of a relation's lhs as queries for its rhs: the operator is applied."""

    def __init__(self, rows: Rows, scorer: Scorer, rel: int) -> None:
        self._rows, self._scorer, self._rel = rows, scorer, rel
        self.size, self.dim = rows.size, rows.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._projected(self._rows.read(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        return self._projected(self._rows.gather(rows))

    @torch.no_grad()
    def _projected(self, vectors: Tensor) -> Tensor:
        queries: Tensor = self._scorer.operator(torch.full((len(vectors),), self._rel), vectors)
        return queries
