"""What is exported: the vectors of a table, or of a relation's queries from it, each with its row and its id."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote

import numpy as np
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
from twhin_core.vectors.ids import NAMES_A_BATCH
from twhin_core.vectors.names import name_rows, open_ids, read_names
from twhin_core.vectors.rows import Ints, MappedRows, Rows, SelectedRows

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
class TrainedRun:
    """The run whose vectors are exported."""

    config: Config
    root: str
    checkpoint: Checkpoint
    schema: Schema

    def scorer(self) -> Scorer:
        """With the checkpoint's relations."""
        return self.checkpoint.scorer(self.config.model, self.schema.relations)


@dataclass(frozen=True)
class VectorSet:
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
    run: TrainedRun

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
        """`count` of the rows at random, or all if there are fewer; ascending positions among `rows`."""
        if count >= self.size:
            return np.arange(self.size)
        return np.sort(np.random.default_rng(seed).choice(self.size, count, replace=False, shuffle=False))


def open_vector_sets(run: TrainedRun) -> list[VectorSet]:
    """What the config asks to export; reads no vectors yet.

    Raises:
        UserError: `export.query_side` names no relation, or a vocabulary is broken.
    """
    export = run.config.export
    vector_sets = [_open(run, table) for table in export.tables or run.schema.tables]
    if export.query_side is not None:
        vector_sets.append(_open_queries(run, export.query_side))
    return [normalized(vector_set) for vector_set in vector_sets] if export.normalize else vector_sets


def _open(run: TrainedRun, table: str) -> VectorSet:
    size = run.schema.tables[table]
    ids = open_ids(run.config, run.root, table, size)
    rows = SelectedRows(run.checkpoint.rows(table), ids.size, ids.index)
    return VectorSet(table, table, None, rows, ids.index, size - ids.size, run)


def _open_queries(run: TrainedRun, relation: str) -> VectorSet:
    names = [relation.name for relation in run.schema.relations]
    if relation not in names:
        raise UserError(f"export.query_side: no relation named {relation!r}; there are {', '.join(names)}")
    rel, scorer = names.index(relation), run.scorer()

    @torch.no_grad()
    def project(vectors: Tensor, _: Ints) -> Tensor:
        queries: Tensor = scorer.operator(torch.full((len(vectors),), rel), vectors)
        return queries

    lhs = _open(run, run.schema.relations[rel].lhs)
    name = f"{lhs.table}.{quote(relation, safe='')}"  # not every name of a relation is a file name
    return replace(lhs, name=name, relation=relation, rows=MappedRows(lhs.rows, project))


def normalized(vector_set: VectorSet) -> VectorSet:
    """The same vectors at length 1."""

    def name(position: int) -> str:
        row = position if vector_set.index is None else int(vector_set.index[position])
        run, size = vector_set.run, vector_set.size + vector_set.unnamed
        (id_,) = name_rows(run.config, run.root, vector_set.table, size, np.array([row]))
        return f"export: {vector_set.name}: the vector of {id_!r}, row {row},"

    return replace(vector_set, rows=unit_rows(vector_set.rows, name))


def unit_rows(rows: Rows, name: Callable[[int], str]) -> Rows:
    """Other rows at length 1. Reading a row of zeros raises UserError; `name` names the row."""

    def normalize(vectors: Tensor, rows: Ints) -> Tensor:
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        if not lengths.all():
            first = int((lengths == 0).squeeze(1).nonzero()[0])
            raise UserError(f"{name(int(rows[first]))} is zero and has no direction to be normalized to")
        units: Tensor = vectors / lengths
        return units

    return MappedRows(rows, normalize)
