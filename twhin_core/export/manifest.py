"""The export manifest, `embeddings/manifest.json`, which is published last, and the records of finished parts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from twhin_core import storage
from twhin_core.graph.manifest import read_as
from twhin_core.parquet import FileEntry
from twhin_core.records import Record, read_record
from twhin_core.schema import Side

FOLDER = "embeddings"
MANIFEST = f"{FOLDER}/manifest.json"
FINISHED = f"{FOLDER}/.finished"
"""One record per format and table, written when its files are complete. The next export keeps those files."""


class PriorOf(BaseModel):
    """The candidates that a prior is of: those for one side of a relation."""

    relation: str
    side: Side
    weight: float | None = None
    """Of log p. None in what earlier releases wrote."""

    def is_of(self, relation: str, side: Side) -> bool:
        return (self.relation, self.side) == (relation, side)


class TableExport(BaseModel):
    """The rows of a table, in the order of their index."""

    name: str
    rows: int
    unnamed_rows: int
    """Rows of the trained table that are not in its vocabulary. They are not exported."""
    files: list[FileEntry]
    """The Parquet files; empty if that format was not requested."""
    priors: list[PriorOf] = []
    """What the numbers in each list of the column `prior` are of."""


class FormatExport(BaseModel):
    """A table in one format, or the queries of a relation (`export.query_side`)."""

    table: str
    query_side: str | None = None
    """The relation whose operator was applied. The vectors are queries for its rhs table, not nodes."""
    rows: int
    files: list[FileEntry]
    prior: PriorOf | None = None
    """What the last coordinate is the prior of, or None if there is none; of queries, that coordinate is 1."""
    figures: dict[str, Any] = {}
    """faiss: kind, metric (inner_product, cosine if the indexed vectors have length 1, or l2), recall@10 and the number
    of queries. pq: subspaces, bits, bytes, float_bytes, ratio. projector: shown, of."""


class AlignedTable(BaseModel):
    """The nodes of a table that both versions have, and the mean cosine of a node's two vectors."""

    nodes: int
    cosine_before: float
    """Without the rotation."""
    cosine_after: float
    """With it."""


class Aligned(BaseModel):
    """How the vectors and the relations' operators were rotated (`export.align`)."""

    root: str
    """The run root of the earlier version, onto whose export they were rotated."""
    checkpoint: int
    """The step of that export."""
    rotation: FileEntry
    """Q, orthogonal: an npy file, float32 [dim, dim]. An exported vector is x·Q for the checkpoint's x."""
    tables: dict[str, AlignedTable]
    """By table, without those that have no node in both."""


class TableMap(BaseModel):
    """How vectors of a table are mapped to the earlier version's space, and how well that works."""

    matrix: FileEntry
    """M: an npy file, float32 [dim, dim of the earlier version]. An exported vector x is mapped to x·M."""
    nodes: int
    """How many nodes of both versions it was fitted to."""
    held_out: int
    """How many others all figures below are of."""
    relative_error: float
    """√(Σ|x·M - y|² / Σ|y|²) for the vectors y that the earlier version exported."""
    cosine: float
    """The mean cosine of x·M and y."""
    neighbors_kept: float
    """Of the 10 nodes that the earlier version has nearest to y (or all, if it has fewer), by cosine, the mean share
    that are also among the 10 nearest to x·M there."""


class VersionMap(BaseModel):
    """How the exported vectors are mapped to the space of an earlier version (`export.map`)."""

    root: str
    """The run root of the earlier version."""
    version: str | None = None
    """Its id, if both are versions of one series, which may be read under another name than `root`'s."""
    space: str
    """The `space` of its export."""
    kind: Literal["linear", "orthogonal"]
    tables: dict[str, TableMap]
    """By table, without those that share too few nodes."""


class ExportManifest(BaseModel):
    """`embeddings/manifest.json`: enough to read the embeddings and to score with them."""

    version: str
    run: str
    """Digest of the config and the graph that the vectors were learned from."""
    checkpoint: int
    """The step exported."""
    config: str
    """Digest of the `export` section."""
    dim: int
    comparator: str
    """How vectors are compared: `dot`, `cos`, `l2` or `squared_l2`."""
    normalized: bool
    """Whether every vector has length 1."""
    reciprocal: bool
    prior: float | None = None
    """The weight of the prior that `export.prior` asked for; None for the trained ones."""
    aligned: Aligned | None = None
    """None unless `export.align` is set."""
    map: VersionMap | None = None
    """None unless `export.map` is set."""
    tables: list[TableExport]
    relations: FileEntry
    formats: dict[str, dict[str, FormatExport]]
    """By format and name: that of a table, or `<lhs>.<relation>` for the queries of a relation."""
    pq_metrics: dict[str, dict[str, dict[str, float]]] | None = None
    """Test metrics by kind of vectors (exact, decoded from pq), relation or `all`, and metric."""

    @property
    def files(self) -> list[FileEntry]:
        """All files of the export."""
        of_formats = (file for of in self.formats.values() for one in of.values() for file in one.files)
        return [self.relations, *self.matrices, *of_formats]

    @property
    def matrices(self) -> list[FileEntry]:
        """The files of the rotation and the maps."""
        rotation = [] if self.aligned is None else [self.aligned.rotation]
        return [*rotation, *([] if self.map is None else [of.matrix for of in self.map.tables.values()])]

    @property
    def space(self) -> str:
        """Tells vectors of one space from those of another: equal for exports whose vectors of a node are equal."""
        rotation = "" if self.aligned is None else self.aligned.rotation.sha256
        return f"{self.run}-{self.checkpoint}-{self.normalized}-{rotation}"


class Finished(Record):
    """The record of a format and table."""

    export: FormatExport


def read_export_manifest(root: str) -> ExportManifest | None:
    """The manifest under the run root, or None if export has not finished."""
    return read_as(ExportManifest, storage.join(root, MANIFEST))


def read_finished(root: str, format_name: str, name: str, made_from: str) -> FormatExport | None:
    """The files of a format and name, or None if they are not finished, made from something else, or incomplete."""
    record = read_record(Finished, storage.join(root, record_path(format_name, name)), made_from)
    return record.export if record is not None and all(file.is_there(root) for file in record.export.files) else None


def write_finished(root: str, format_name: str, name: str, made_from: str, export: FormatExport) -> None:
    record = Finished(made_from=made_from, export=export)
    storage.write_json(storage.join(root, record_path(format_name, name)), record.model_dump())


def record_path(format_name: str, name: str) -> str:
    return f"{FINISHED}/{format_name}/{name}.json"
