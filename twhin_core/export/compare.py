"""The quality lost to product quantization: test metrics of the exact vectors and of those decoded from pq."""

from __future__ import annotations

from twhin_core.data.splits import has_split
from twhin_core.evaluation.measure import measure_rows
from twhin_core.evaluation.metrics import ALL, MRR, Figures, prefix
from twhin_core.evaluation.result import is_current, read_metrics
from twhin_core.export.manifest import FormatExport
from twhin_core.export.npy import read_array
from twhin_core.export.product_quantization import codebooks_path, decoded_rows
from twhin_core.export.vector_set import TrainedRun, exported_rows
from twhin_core.progress import log
from twhin_core.vectors.rotation import rotated
from twhin_core.vectors.rows import Rows


def compare(run: TrainedRun, exports: dict[str, FormatExport]) -> dict[str, Figures] | None:
    """Metrics of the `exact` and the `decoded` vectors; None if there are no held-out edges.

    Args:
        exports: the pq export of each table. Tables without one keep their exact vectors.
    """
    config, root = run.config, run.root
    if not has_split(config, root, config.evaluation.split):
        log.info("export: no metrics for pq: there are no %s edges", config.evaluation.split)
        return None
    tables: dict[str, Rows] = {name: run.checkpoint.rows(name) for name in run.schema.tables}
    metrics = read_metrics(root)
    if metrics is not None and is_current(metrics, config, run.checkpoint.step):
        exact = metrics[config.evaluation.split]
    else:
        exact = measure_rows(config, root, run.checkpoint, tables)
    decoded_tables = {name: _decoded(run, exports[name]) if name in exports else rows for name, rows in tables.items()}
    decoded = measure_rows(config, root, run.checkpoint, decoded_tables)
    mrr = prefix(config.evaluation) + MRR
    log.info("export: %s with pq %.4f, with exact vectors %.4f", mrr, decoded[ALL][mrr], exact[ALL][mrr])
    return {"exact": exact, "decoded": decoded}


def _decoded(run: TrainedRun, export: FormatExport) -> Rows:
    """The vectors of all rows as decoded from their codes, where the checkpoint has them: rotated back."""
    table = export.table
    (entry,) = (file for file in export.files if file.path == codebooks_path(table))
    decoded = decoded_rows(exported_rows(run, table), read_array(run.root, entry))
    return rotated(decoded, None if run.rotation is None else run.rotation.T)
