"""What was exported: `embeddings/manifest.json`, published last, and the record of each part that is finished."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from twhin_core import storage
from twhin_core.graph.manifest import read_as
from twhin_core.parquet import FileEntry

FOLDER = "embeddings"
MANIFEST = f"{FOLDER}/manifest.json"
FINISHED = f"{FOLDER}/.finished"
"""A record a format and table, written when its files are whole, so that the next run need not write them again."""


class TableExport(BaseModel):
    """The rows of a table, in the order of their index."""

    name: str
    rows: int
    unnamed_rows: int
    """Rows of the trained table that its vocabulary does not name: no nodes, hence left out."""
    files: list[FileEntry]
    """Of the format parquet; empty where that was not asked for."""


class FormatExport(BaseModel):
    """A table in one format, or a relation's queries from its lhs table (`query_side`)."""

    table: str
    query_side: str | None = None
    """The relation whose operator was applied: these are queries for its rhs table, no vectors of nodes."""
    rows: int
    files: list[FileEntry]
    figures: dict[str, Any] = {}
    """Of faiss: kind, metric (inner_product, cosine where the vectors in it have length 1, or l2), recall@10 and its
    queries; of pq: subspaces, bits, bytes, float_bytes, ratio; of the projector: shown, of."""


class ExportManifest(BaseModel):
    """`embeddings/manifest.json`: enough to read the embeddings and to score with them."""

    version: str
    run: str
    """Digest of the config and the graph that the vectors were learned from."""
    checkpoint: int
    """The step exported."""
    config: str
    """Digest of the sections that say what to export."""
    dim: int
    comparator: str
    """How two vectors are compared: `dot`, `cos`, `l2` or `squared_l2`."""
    normalized: bool
    """Whether every vector has length 1."""
    reciprocal: bool
    tables: list[TableExport]
    relations: FileEntry
    formats: dict[str, dict[str, FormatExport]]
    """By format and name: a table's, or `<lhs>.<relation>` for a relation's queries."""
    pq_metrics: dict[str, dict[str, dict[str, float]]] | None = None
    """Test metrics of the exact vectors and of those decoded from pq: exact, decoded → all or relation → metric."""


class Finished(BaseModel):
    """The record of a format and table that is whole: of what it was made, and what is there."""

    run: str
    checkpoint: int
    settings: str
    """Digest of the settings that the files depend on."""
    export: FormatExport


def read_export_manifest(root: str) -> ExportManifest | None:
    """The manifest under the run root, or None where export has not finished."""
    return read_as(ExportManifest, storage.join(root, MANIFEST))


def read_finished(root: str, format_name: str, name: str) -> Finished | None:
    """The record of a format and name, or None where it has not finished or files of it are gone."""
    tree = storage.find_json(storage.join(root, record_path(format_name, name)))
    if tree is None:
        return None
    try:
        record = Finished.model_validate(tree)
    except ValidationError:  # of another version
        return None
    whole = all(storage.exists(storage.join(root, file.path)) for file in record.export.files)
    return record if whole else None


def write_finished(root: str, format_name: str, name: str, record: Finished) -> None:
    storage.write_json(storage.join(root, record_path(format_name, name)), record.model_dump())


def record_path(format_name: str, name: str) -> str:
    return f"{FINISHED}/{format_name}/{name}.json"
