"""The export stage: the newest checkpoint's vectors under their original ids, if the metrics pass their gates."""

from __future__ import annotations

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.errors import GateFailed, UserError
from twhin_core.evaluation.gates import check_names, decide, missed
from twhin_core.evaluation.result import METRICS, is_current, read_metrics
from twhin_core.export.manifest import MANIFEST, ExportManifest, read_export_manifest
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import log
from twhin_core.run import stage
from twhin_core.stages import report


@stage("export")
def export(config: Config, root: str) -> ExportManifest:
    """Writes `embeddings/` from the newest checkpoint, or finds it written; draws the report again, which shows it.

    What an interrupted export has finished, and what a change of `export` leaves as it is, is not written again.

    Raises:
        GateFailed: the metrics miss a gate; nothing is written, and what was exported before stays.
        UserError: there is no checkpoint; there are gates but no metrics of this checkpoint; `embeddings/` is of
            another run; a table cannot be had in a format; or a broken vocabulary.
    """
    from twhin_core.checkpoints.checkpoint import describe, newest
    from twhin_core.export import write
    from twhin_core.export.vector_set import TrainedRun

    check_names(config)
    checkpoint = newest(root)
    if checkpoint is None:
        raise UserError(f"{root}: there is no whole checkpoint here; run `twhin train` first")
    schema = read_schema(config, root)
    checkpoint.check_fits(describe(config, schema))
    _pass_gates(config, root, checkpoint.step)
    run = TrainedRun(config, root, checkpoint, schema)
    manifest = read_export_manifest(root)
    if manifest is not None and manifest.run != write.identify(run):
        raise UserError(
            f"{storage.join(root, MANIFEST)}: is of another run; remove these embeddings or use another --run-root"
        )
    if manifest is not None and write.is_current(manifest, config, checkpoint.step):
        log.info("export: %s is of this checkpoint, step %d", storage.join(root, MANIFEST), checkpoint.step)
    else:
        manifest = write.write_export(run)
        _publish(config, root, manifest)
    report.draw_missing(config, root, checkpoint.step)
    return manifest


def _publish(config: Config, root: str, manifest: ExportManifest) -> None:
    """Writes the manifest; removes the report of the same checkpoint, which does not show it."""
    with lease.hold(root, "publish"):
        metrics = read_metrics(root)
        if metrics is not None and is_current(metrics, config, manifest.checkpoint):
            report.remove(root)
        storage.publish_json(storage.join(root, MANIFEST), manifest.model_dump())


def _pass_gates(config: Config, root: str, step: int) -> None:
    gates = config.evaluation.gates
    if not gates:
        return
    metrics, url = read_metrics(root), storage.join(root, METRICS)
    if metrics is None:
        raise UserError(f"{url}: is needed for evaluation.gates and is not there; run `twhin evaluate` first")
    if not is_current(metrics, config, step):
        raise UserError(
            f"{url}: is not of the newest checkpoint (step {step}) or was measured by other evaluation settings; "
            "run `twhin evaluate` again"
        )
    decision = decide(config, metrics)
    if not decision["passed"]:
        raise GateFailed(f"nothing was exported: {'; '.join(missed(decision))}")
