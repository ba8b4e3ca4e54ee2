"""What was exported: `embeddings/manifest.json`, published last."""

from __future__ import annotations

import json

from pydantic import BaseModel, ValidationError

from twhin_core import storage
from twhin_core.errors import UserError
from twhin_core.parquet import FileEntry

MANIFEST = "embeddings/manifest.json"


class TableExport(BaseModel):
    """The rows of a table, in the order of their index."""

    name: str
    rows: int
    unnamed_rows: int
    """Rows of the trained table that its vocabulary does not name: no nodes, hence left out."""
    files: list[FileEntry]


class ExportManifest(BaseModel):
    """`embeddings/manifest.json`: enough to read the embeddings and to score with them."""

    version: str
    checkpoint: int
    """The step exported."""
    config: str
    """Digest of the sections that say what to export."""
    dim: int
    comparator: str
    """How two vectors are compared: `dot` or `cos`."""
    reciprocal: bool
    tables: list[TableExport]
    relations: FileEntry


def read_export_manifest(root: str) -> ExportManifest | None:
    """The manifest under the run root, or None where export has not finished."""
    url = storage.join(root, MANIFEST)
    if not storage.exists(url):
        return None
    try:
        return ExportManifest.model_validate(storage.read_json(url))
    except (ValidationError, json.JSONDecodeError) as error:
        raise UserError(f"{url}: not a manifest of this version: {str(error).splitlines()[0]}") from None
