"""A manifest of embeddings as export writes it, with files of known sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twhin_core import __version__
from twhin_core.export.manifest import ExportManifest, FormatExport
from twhin_core.parquet import FileEntry

FIGURES: dict[str, dict[str, Any]] = {
    "parquet": {},
    "faiss": {"kind": "hnsw", "metric": "inner_product", "recall@10": 0.9876, "queries": 100},
    "pq": {"subspaces": 4, "bits": 8, "float_bytes": 3200, "bytes": 200, "ratio": 16.0},
    "tensorboard-projector": {"shown": 5, "of": 40},
}


def write_exports(root: Path, checkpoint: int, table: str, relation: str, metric: str = "mrr") -> None:
    """Every format of one table of 40 rows, each two files of 100 and 3,100 bytes, and one relation's queries."""
    formats: dict[str, dict[str, FormatExport]] = {}
    for name, figures in FIGURES.items():
        paths = [f"embeddings/{name}/{part}" for part in ("a", "b")]
        for path, size in zip(paths, (100, 3100), strict=True):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(bytes(size))
        files = [FileEntry(path=path, rows=20, sha256="0") for path in paths]
        formats[name] = {table: FormatExport(table=table, rows=40, files=files, figures=figures)}
    queries = formats["parquet"][table].model_copy(update={"query_side": relation})
    formats["parquet"][f"{table}.{relation}"] = queries
    exact = {of: {metric: value, f"{metric}_lhs": 0.1, "edges": 9} for of, value in (("all", 0.5), (relation, 0.4))}
    decoded = {of: {metric: value, f"{metric}_lhs": 0.1, "edges": 9} for of, value in (("all", 0.45), (relation, 0.42))}
    manifest = ExportManifest(
        version=__version__,
        run="0",
        checkpoint=checkpoint,
        config="0",
        dim=20,
        comparator="dot",
        normalized=False,
        reciprocal=False,
        tables=[],
        relations=FileEntry(path="embeddings/relations.parquet", rows=1, sha256="0"),
        formats=formats,
        pq_metrics={"exact": exact, "decoded": decoded},
    )
    (root / "embeddings/manifest.json").write_text(manifest.model_dump_json())
