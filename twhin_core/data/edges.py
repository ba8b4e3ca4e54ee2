"""Edges on disk, `lhs`, `rel`, `rhs` and optionally `weight`, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core import storage
from twhin_core.config import Config, EdgeData
from twhin_core.errors import UserError
from twhin_core.graph.manifest import Schema, read_manifest
from twhin_core.parquet import open_parquet


@dataclass(frozen=True)
class Edges:
    """Edges in data set order: `lhs`, `rhs` int64 [E] rows of their tables, `rel` int64 [E], `weight` float32 [E]."""

    lhs: npt.NDArray[np.int64]
    rel: npt.NDArray[np.int64]
    rhs: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.lhs)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Edges:
        return Edges(self.lhs[rows], self.rel[rows], self.rhs[rows], self.weight[rows])


def read_split(config: Config, root: str, schema: Schema, split: str) -> Edges:
    """The edges of `train`, `validation` or `test`: of the config's data root, or of prepare's split under `root`.

    Raises:
        UserError: no file, a broken file or one without the columns, an index outside its table, or no edges.
    """
    data: EdgeData | None = getattr(config, f"{split}_data")
    pattern = data.data_root if data is not None and data.data_root is not None else None
    if pattern is None and config.prepare is None:
        raise UserError(f"{split}_data.data_root: is needed to read {split} edges that prepare did not make")
    edges = _read_files(storage.glob(pattern or storage.join(root, "graph/edges", split)), schema)
    if data is not None:
        end = None if data.limit is None else data.offset + data.limit
        edges = edges.take(slice(data.offset, end))
    if len(edges) == 0:
        raise UserError(f"the {split} split has no edges ({pattern or storage.join(root, 'graph/edges', split)})")
    return edges


def has_split(config: Config, root: str, split: str) -> bool:
    """Whether there are edges of that split to read; one that prepare left empty is as good as none."""
    data: EdgeData | None = getattr(config, f"{split}_data")
    if data is not None and data.data_root is not None:
        return True
    manifest = read_manifest(root) if config.prepare is not None else None
    return manifest is not None and manifest.splits[split].edges > 0


def _read_files(urls: list[str], schema: Schema) -> Edges:
    parts = [_read_file(url, schema) for url in urls]
    return Edges(
        np.concatenate([part.lhs for part in parts]),
        np.concatenate([part.rel for part in parts]),
        np.concatenate([part.rhs for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )


def _read_file(url: str, schema: Schema) -> Edges:
    with open_parquet(url) as file:
        names = file.schema_arrow.names
        for name in ("lhs", "rel", "rhs"):
            if name not in names:
                raise UserError(f"{url}: has no column {name}; it has {', '.join(names)}")
            if not pa.types.is_integer(file.schema_arrow.field(name).type):
                raise UserError(f"{url}: column {name} is {file.schema_arrow.field(name).type}, not integers")
        table = file.read(columns=[name for name in ("lhs", "rel", "rhs", "weight") if name in names])
    for name in table.column_names:
        if table[name].null_count:
            raise UserError(f"{url}: column {name} has nulls, the first in row {pc.index(table[name].is_null(), True)}")
    weight = table["weight"].to_numpy() if "weight" in table.column_names else np.ones(len(table))
    edges = Edges(
        table["lhs"].to_numpy().astype(np.int64, copy=False),
        table["rel"].to_numpy().astype(np.int64, copy=False),
        table["rhs"].to_numpy().astype(np.int64, copy=False),
        weight.astype(np.float32, copy=False),
    )
    _check(edges, url, schema)
    return edges


def _check(edges: Edges, url: str, schema: Schema) -> None:
    """Raises UserError for the first edge of a relation or a node that does not exist."""

    def refuse(bad: npt.NDArray[np.bool_], what: str, column: npt.NDArray[np.int64], limit: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            raise UserError(f"{url}: row {row}: {what} {column[row]} is outside {limit}")

    relations = schema.relations
    refuse((edges.rel < 0) | (edges.rel >= len(relations)), "rel", edges.rel, f"the {len(relations)} relations")
    for side, column in (("lhs", edges.lhs), ("rhs", edges.rhs)):
        sizes = np.array([schema.tables[schema.table_of(rel, side)] for rel in range(len(relations))])
        bad = (column < 0) | (column >= sizes[edges.rel])
        if bad.any():
            table = schema.table_of(int(edges.rel[bad.argmax()]), side)
            refuse(bad, side, column, f"table {table} of {schema.tables[table]} rows")
    bad_weight = ~(np.isfinite(edges.weight) & (edges.weight > 0))
    if bad_weight.any():
        raise UserError(f"{url}: row {int(bad_weight.argmax())}: weight is not a number above 0")
