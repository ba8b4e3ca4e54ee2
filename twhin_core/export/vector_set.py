"""The vectors to export: those of a table, or the queries of a relation, each with its row and id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from twhin_core.checkpoints.checkpoint import Checkpoint
from twhin_core.config import Config
from twhin_core.data.prefetch import Ahead
from twhin_core.errors import UserError
from twhin_core.export.fits import check_query_side
from twhin_core.export.manifest import PriorOf
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import VECTOR_BYTES_PER_GROUP
from twhin_core.progress import Progress
from twhin_core.schema import Schema, Side
from twhin_core.vectors.ids import IDS_PER_BATCH, Ids
from twhin_core.vectors.named import Block, named_blocks
from twhin_core.vectors.names import open_ids
from twhin_core.vectors.prior import Prior
from twhin_core.vectors.rotation import rotated
from twhin_core.vectors.rows import Ints, MappedRows, Rows, SelectedRows

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_BYTES = VECTOR_BYTES_PER_GROUP
"""Size of the blocks in which vectors are read."""


@dataclass(frozen=True)
class TrainedRun:
    """A run and the checkpoint that its vectors are read from. A position counts only rows with an id."""

    config: Config
    root: str
    checkpoint: Checkpoint
    schema: Schema
    rotation: Tensor | None = None
    """Multiplies all vectors, which the scorer then fits: orthogonal, float32 [dim, dim]. See `export.align`."""

    @property
    def step(self) -> int:
        return self.checkpoint.step

    @property
    def tables(self) -> Sequence[str]:
        return list(self.schema.tables)

    def ids(self, table: str) -> Ids:
        """The ids of a table. Raises UserError for a broken vocabulary."""
        return open_ids(self.config, self.root, table, self.schema.tables[table])

    def rows(self, table: str) -> Rows:
        """The vectors of the rows with an id, by position."""
        ids = self.ids(table)
        return SelectedRows(self._all_rows(table), ids.size, ids.index)

    def _all_rows(self, table: str) -> Rows:
        return rotated(self.checkpoint.rows(table), self.rotation)

    def candidates(self, side: Side, rel: int) -> Rows:
        """The vectors of the candidates for `side` of a relation, by position; followed by their priors, if any."""
        table = self.schema.table_of(rel, side)
        ids, rows = self.ids(table), self._all_rows(table)
        if self.prior is not None and side in self.prior.sides:
            return SelectedRows(self.prior.rows(side, rel, rows), ids.size, ids.index)
        return SelectedRows(rows, ids.size, ids.index)

    def prior_of_counts(self, side: Side, rel: int, counts: Ints) -> Tensor:
        """The priors of candidates for `side` of a relation that have `counts` [n] training edges: float32 [n]."""
        assert self.prior is not None
        return self.prior.of_counts(side, rel, counts)

    def scorer(self) -> Scorer:
        scorer = self.checkpoint.scorer(self.config.model, self.schema.relations)
        if self.rotation is not None:
            scorer.rotate(self.rotation)
        return scorer

    def prior_weight(self, side: Side, rel: int) -> float:
        """The weight of log p in the priors of `candidates`."""
        assert self.prior is not None
        return self.prior.weight(side, rel)

    @cached_property
    def prior(self) -> Prior | None:
        return self.checkpoint.prior(self.scorer(), self.schema.relations)

    def prior_of_lists(self, relation: str) -> Prior | None:
        """The prior with the weight that lists of a relation give it."""
        return None if self.prior is None else self.prior.with_weight(self.config.prior_of_lists(relation))


@dataclass(frozen=True)
class VectorSet:
    """Vectors that are exported under one name."""

    name: str
    """Name of the folder or file: that of the table, or `<lhs>.<relation>`."""
    table: str
    relation: str | None
    """The relation whose operator was applied, which turns vectors of its lhs into queries for its rhs."""
    rows: Rows
    """The rows with an id, in the order of their index."""
    index: Ints | None
    """The table row of each of `rows`, int64 [size]; None for rows 0 to size - 1."""
    unnamed: int
    """Number of table rows without an id."""
    run: TrainedRun
    is_normalized: bool = False
    """Whether the vectors have length 1."""

    @cached_property
    def prior(self) -> Prior | None:
        """The prior with the weight that `export.prior` gives it."""
        prior = self.run.prior
        return None if prior is None else prior.with_weight(self.run.config.export.prior)

    @cached_property
    def prior_ends(self) -> list[tuple[Side, int]]:
        """The (side, relation) of all queries whose candidates are these nodes, and whose scores include a prior."""
        if self.prior is None or self.relation is not None:
            return []
        schema, sides = self.run.schema, self.prior.sides
        relations = range(len(schema.relations))
        return [(side, rel) for rel in relations for side in sides if schema.table_of(rel, side) == self.table]

    def prior_of(self, end: tuple[Side, int]) -> PriorOf:
        """One of `prior_ends` as the manifest names it."""
        assert self.prior is not None
        side, rel = end
        return PriorOf(relation=self.run.schema.names[rel], side=side, weight=self.prior.weight(side, rel))

    @property
    def dim(self) -> int:
        return self.rows.dim

    @property
    def size(self) -> int:
        return self.rows.size

    def names(self, batch_rows: int = IDS_PER_BATCH) -> Iterator[pa.RecordBatch]:
        """Batches (index, id) of the rows."""
        return self.run.ids(self.table).batches(batch_rows)

    def blocks(self, progress: Progress) -> Iterator[Block]:
        """All rows in order. The next block is read while the caller uses the current one."""
        block_rows = max(1, BLOCK_BYTES // (4 * self.dim))
        with Ahead(named_blocks(self.names(block_rows), self.rows)) as ahead:
            for block in ahead:
                yield block
                progress.update(len(block))

    def sample(self, count: int, seed: int = 0) -> Ints:
        """At most `count` random positions in `rows`, ascending."""
        if count >= self.size:
            return np.arange(self.size)
        return np.sort(np.random.default_rng(seed).choice(self.size, count, replace=False, shuffle=False))


def open_vector_sets(run: TrainedRun) -> list[VectorSet]:
    """The vector sets that the config asks for. Reads no vectors.

    Raises:
        UserError: `export.query_side` names an unknown relation, or a vocabulary is broken.
    """
    export = run.config.export
    vector_sets = [_open(run, table) for table in export.tables or run.schema.tables]
    if export.query_side is not None:
        vector_sets.append(_open_queries(run, export.query_side))
    return [normalized(vector_set) for vector_set in vector_sets] if export.normalize else vector_sets


def _open(run: TrainedRun, table: str) -> VectorSet:
    rows, ids = run.rows(table), run.ids(table)
    return VectorSet(table, table, None, rows, ids.index, run.schema.tables[table] - ids.size, run)


def _open_queries(run: TrainedRun, relation: str) -> VectorSet:
    import torch

    check_query_side(run.config.export, run.schema.names)
    rel, scorer = run.schema.names.index(relation), run.scorer()

    @torch.no_grad()
    def project(vectors: Tensor, _: Ints) -> Tensor:
        queries: Tensor = scorer.operator(torch.full((len(vectors),), rel), vectors)
        return queries

    lhs = _open(run, run.schema.relations[rel].lhs)
    name = f"{lhs.table}.{quote(relation, safe='')}"  # a relation's name may not be a valid file name
    return replace(lhs, name=name, relation=relation, rows=MappedRows(lhs.rows, project))


def normalized(vector_set: VectorSet) -> VectorSet:
    """The same vectors, scaled to length 1."""

    def name(position: int) -> str:
        row = position if vector_set.index is None else int(vector_set.index[position])
        (id_,) = vector_set.run.ids(vector_set.table).at(np.array([position]))
        return f"export: {vector_set.name}: the vector of {id_!r}, row {row},"

    return replace(vector_set, rows=unit_rows(vector_set.rows, name), is_normalized=True)


def exported_rows(run: TrainedRun, table: str) -> Rows:
    """All rows of a table as they are exported: rotated and normalized, if the export is.

    Reading a row of zeros that is normalized raises UserError.
    """
    rows = rotated(run.checkpoint.rows(table), run.rotation)
    if not run.config.export.normalize:
        return rows
    return unit_rows(rows, lambda row: f"export: {table}: the vector in row {row}")


def unit_rows(rows: Rows, name: Callable[[int], str]) -> Rows:
    """`rows` scaled to length 1. Reading a row of zeros raises UserError with the `name` of the row."""
    import torch

    def normalize(vectors: Tensor, rows: Ints) -> Tensor:
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        if not lengths.all():
            first = int((lengths == 0).squeeze(1).nonzero()[0])
            raise UserError(f"{name(int(rows[first]))} is zero and cannot be normalized")
        units: Tensor = vectors / lengths
        return units

    return MappedRows(rows, normalize)
