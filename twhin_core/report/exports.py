"""The export of the checkpoint, from `embeddings/manifest.json`: sizes, and the quality of each format."""

from __future__ import annotations

from typing import Any

from twhin_core import storage
from twhin_core.evaluation.metrics import ALL, EDGES, Figures, Metrics
from twhin_core.export.manifest import FOLDER, Aligned, FormatExport, VersionMap, read_export_manifest
from twhin_core.report.figures import SIDED, Table
from twhin_core.sizes import readable

MAP_COLUMNS = ["table", "fitted to", "measured on", "relative error", "mean cosine", "of the 10 nearest kept"]


def collect(metrics: Metrics, root: str) -> dict[str, Any] | None:
    """The content of the section; None if export has not finished, or exported another checkpoint."""
    manifest = read_export_manifest(root)
    if manifest is None or manifest.checkpoint != metrics["checkpoint"] or not manifest.formats:
        return None
    sizes = _sizes(root)
    rows = [
        _row(format_name, export, sizes)
        for format_name, exports in manifest.formats.items()
        for export in exports.values()
    ]
    compared = manifest.pq_metrics
    return {
        "formats": Table(["table", "format", "rows", "files", "size", "bytes per row", "quality"], rows),
        "pq": _compare(compared) if compared else None,
        "relations": _by_relation(compared) if compared else None,
        "aligned": manifest.aligned,
        "rotated": _rotated(manifest.aligned) if manifest.aligned is not None else None,
        "map": manifest.map,
        "maps": Table(MAP_COLUMNS, map_rows(manifest.map)) if manifest.map is not None else None,
    }


def _rotated(aligned: Aligned) -> Table:
    """How near the vectors are to the earlier version's, without the rotation and with it."""
    rows = [
        [table, f"{of.nodes:,}", f"{of.cosine_before:.4f}", f"{of.cosine_after:.4f}"]
        for table, of in aligned.tables.items()
    ]
    return Table(["table", "nodes of both", "mean cosine, as learned", "mean cosine, rotated"], rows)


def map_rows(of: VersionMap) -> list[list[str]]:
    """How well vectors are mapped to the earlier version's space, on nodes that the maps were not fitted to."""
    return [
        [table, f"{found.nodes:,}", f"{found.held_out:,}", f"{found.relative_error:.4f}", f"{found.cosine:.4f}",
         f"{found.neighbors_kept:.1%}"]
        for table, found in of.tables.items()
    ]  # fmt: skip


def _row(format_name: str, export: FormatExport, sizes: dict[str, int]) -> list[str]:
    files = [sizes.get(file.path, 0) for file in export.files]
    name = export.table if export.query_side is None else f"{export.table}, queries of {export.query_side}"
    each = f"{sum(files) / export.rows:,.1f}" if export.rows else "–"
    quality = _quality(export.figures)
    return [name, format_name, f"{export.rows:,}", f"{len(files):,}", readable(sum(files)), each, quality]


def _quality(figures: dict[str, Any]) -> str:
    """How closely the format approximates the vectors, and how much smaller it is, in words."""
    recall = next((name for name in figures if name.startswith("recall@")), None)
    if recall is not None:
        return f"{figures['kind']}: {recall} {figures[recall]:.4f} of exact search"
    if "ratio" in figures:
        return f"{figures['ratio']:g} times smaller: {figures['subspaces']} subspaces of {figures['bits']} bits"
    if "shown" in figures:
        return f"{figures['shown']:,} of {figures['of']:,} rows"
    return "exact"


def _compare(compared: dict[str, Figures]) -> Table:
    """Metrics of the exact vectors, and of those decoded from pq."""
    exact, decoded = compared["exact"][ALL], compared["decoded"][ALL]
    names = [name for name in exact if name in decoded and name != EDGES and not name.endswith(SIDED)]
    return Table(
        ["metric", "exact", "decoded", "change"], [_change(name, exact[name], decoded[name]) for name in names]
    )


def _by_relation(compared: dict[str, Figures], most: int = 20) -> Table:
    """The first of these metrics by relation."""
    exact, decoded = compared["exact"], compared["decoded"]
    name = next(name for name in exact[ALL] if name != EDGES)
    relations = sorted((of for of in exact if of != ALL and of in decoded), key=lambda of: -exact[of].get(EDGES, 0))
    rows = [_change(of, exact[of][name], decoded[of][name]) for of in relations[:most]]
    return Table(["relation", f"{name}, exact", f"{name}, decoded", "change"], rows)


def _change(name: str, exact: float, decoded: float) -> list[str]:
    return [name, f"{exact:.4f}", f"{decoded:.4f}", f"{(decoded - exact) / exact:+.1%}" if exact else "–"]


def _sizes(root: str) -> dict[str, int]:
    """Bytes of each exported file, by its path under the root."""
    fs, folder = storage.filesystem(storage.join(root, FOLDER))
    found = fs.find(folder, detail=True)
    return {f"{FOLDER}/{name[len(folder) :].lstrip('/')}": int(entry["size"]) for name, entry in found.items()}
