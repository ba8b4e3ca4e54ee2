"""Edges as arrays, and their validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core.errors import UserError
from twhin_core.schema import SIDES, Schema

NODES_AND_RELATION = ("lhs", "rel", "rhs")
WEIGHT = "weight"


@dataclass(frozen=True)
class Edges:
    """Edges in data set order: `lhs`, `rhs` int64 [E] rows of their tables, `rel` int64 [E], `weight` float32 [E]."""

    lhs: npt.NDArray[np.int64]
    rel: npt.NDArray[np.int64]
    rhs: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.lhs)

    def take(self, rows: npt.NDArray[np.integer | np.bool_] | slice) -> Edges:
        """The edges at `rows`: views of the same arrays if `rows` is a slice."""
        if isinstance(rows, slice) or rows.dtype == np.bool_:
            return Edges(self.lhs[rows], self.rel[rows], self.rhs[rows], self.weight[rows])
        if self.weight.strides == (0,) and len(self):
            weight = np.full(len(rows), self.weight[0])
        else:
            weight = self.weight.take(rows)
        return Edges(self.lhs.take(rows), self.rel.take(rows), self.rhs.take(rows), weight)

    @staticmethod
    def joined(parts: list[Edges]) -> Edges:
        """The concatenation of at least one part; the same arrays for a single part."""
        if len(parts) == 1:
            return parts[0]
        return Edges(
            np.concatenate([part.lhs for part in parts]),
            np.concatenate([part.rel for part in parts]),
            np.concatenate([part.rhs for part in parts]),
            np.concatenate([part.weight for part in parts]),
        )


def check_columns(schema: pa.Schema, url: str) -> None:
    """Raises UserError unless a file of this schema has integer columns for nodes and relations."""
    for name in NODES_AND_RELATION:
        if name not in schema.names:
            raise UserError(f"{url}: has no column {name}; it has {', '.join(schema.names)}")
        if not pa.types.is_integer(schema.field(name).type):
            raise UserError(f"{url}: column {name} is {schema.field(name).type}, not integers")
    if WEIGHT in schema.names:
        kind = schema.field(WEIGHT).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise UserError(f"{url}: column {WEIGHT} is {kind}, not numbers")


def from_batch(batch: pa.RecordBatch, schema: Schema, url: str, first_row: int) -> Edges:
    """The validated edges of a record batch: read-only views of its columns if they are int64.

    Without a column `weight`, all weights are 1 and take no memory. `url` and `first_row`, the position of the batch in
    its file, are for error messages.

    Raises:
        UserError: a null, a relation or node that does not exist, or a weight that is not above 0.
    """
    for name in batch.schema.names:
        column = batch[name]
        if column.null_count:
            row = first_row + pc.index(column.is_null(), True).as_py()
            raise UserError(f"{url}: column {name} has nulls, the first in row {row}")
    lhs, rel, rhs = (
        batch[name].to_numpy(zero_copy_only=False).astype(np.int64, copy=False) for name in NODES_AND_RELATION
    )
    if WEIGHT in batch.schema.names:
        weight = batch[WEIGHT].to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    else:
        weight = np.broadcast_to(np.float32(1), len(lhs))
    edges = Edges(lhs, rel, rhs, weight)
    _check(edges, schema, url, first_row)
    return edges


def _check(edges: Edges, schema: Schema, url: str, first_row: int) -> None:
    def refuse(bad: npt.NDArray[np.bool_], what: str) -> None:
        raise UserError(f"{url}: row {first_row + int(bad.argmax())}: {what}")

    relations = len(schema.relations)
    bad = (edges.rel < 0) | (edges.rel >= relations)
    if bad.any():
        refuse(bad, f"rel {edges.rel[bad.argmax()]} is outside the {relations} relations")
    for side in SIDES:
        column = getattr(edges, side)
        bad = (column < 0) | (column >= schema.rows[side][edges.rel])
        if bad.any():
            table = schema.table_of(int(edges.rel[bad.argmax()]), side)
            refuse(bad, f"{side} {column[bad.argmax()]} is outside table {table} of {schema.tables[table]} rows")
    if edges.weight.strides != (0,):
        bad = ~(np.isfinite(edges.weight) & (edges.weight > 0))
        if bad.any():
            refuse(bad, "weight is not a number above 0")
