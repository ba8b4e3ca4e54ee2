"""What was exported of the checkpoint, as `embeddings/manifest.json` has it."""

from __future__ import annotations

from typing import Any

from twhin_core import storage
from twhin_core.evaluation.metrics import Metrics
from twhin_core.evaluation.report.figures import Table

MANIFEST = "embeddings/manifest.json"


def collect(metrics: Metrics, root: str) -> Table | None:
    """The formats of each table; None where export has not finished, or wrote another checkpoint."""
    url = storage.join(root, MANIFEST)
    if not storage.exists(url):
        return None
    manifest: dict[str, Any] = storage.read_json(url)
    if manifest["checkpoint"] != metrics["checkpoint"]:
        return None
    rows = [[table["name"], "parquet", f"{table['rows']:,}", str(len(table["files"]))] for table in manifest["tables"]]
    return Table(["table", "format", "rows", "files"], rows)
