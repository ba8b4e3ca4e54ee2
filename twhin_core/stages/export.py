"""The export stage: writes the newest checkpoint's vectors with their original ids, if every gate passes."""

from __future__ import annotations

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.durations import measured
from twhin_core.errors import GateFailed, UserError
from twhin_core.evaluation.gates import check_names, decide, missed
from twhin_core.evaluation.result import is_current, metrics_url, read_metrics
from twhin_core.export.manifest import MANIFEST, ExportManifest, read_export_manifest
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import log, log_of
from twhin_core.run import stage
from twhin_core.stages import report
from twhin_core.stages.track import tracked


@stage("export")
@tracked
def export(config: Config, root: str) -> ExportManifest:
    """Writes `embeddings/` from the newest checkpoint unless it is up to date, and redraws the report.

    Files that an interrupted export finished, or that a change of the `export` section does not affect, are kept.

    Raises:
        GateFailed: the metrics miss a gate. Nothing is written, and the previous export stays.
        UserError: there is no checkpoint; gates are set but this checkpoint has no metrics; `embeddings/` belongs to
            another run; a format does not support a table; or a vocabulary is broken.
    """
    from twhin_core.checkpoints.checkpoint import NoCheckpoint, last
    from twhin_core.checkpoints.description import model_description
    from twhin_core.export import write
    from twhin_core.export.vector_set import TrainedRun
    from twhin_core.stages.old_checkpoints import keep_after_success

    check_names(config)
    checkpoint = last(root)
    if checkpoint is None:
        raise NoCheckpoint(root)
    log_of(step=checkpoint.step)
    schema = read_schema(config, root)
    check_names(config, schema.names)
    checkpoint.check_fits(model_description(config, schema))
    _check_gates(config, root, checkpoint.step)
    run = TrainedRun(config, root, checkpoint, schema)
    manifest = read_export_manifest(root)
    if manifest is not None and manifest.run != write.identify(run):
        raise UserError(
            f"{storage.join(root, MANIFEST)} belongs to another run; remove these embeddings or use another --run-root"
        )
    is_current = manifest is not None and write.is_current(manifest, config, checkpoint.step)
    if manifest is not None and is_current and all(file.is_there(root) for file in manifest.files):
        log.info("export: up to date: %s, step %d", storage.join(root, MANIFEST), checkpoint.step)
    else:
        with measured(root, "export"):
            manifest = write.write_export(run)
        _publish(config, root, manifest)
    report.draw_missing(config, root, checkpoint.step)
    keep_after_success(config, root, "export")
    return manifest


def _publish(config: Config, root: str, manifest: ExportManifest) -> None:
    """Writes the manifest; removes the report of the same checkpoint, which does not show the export."""
    with lease.hold(root, "publish"):
        report.remove_that_of(config, root, manifest.checkpoint)
        storage.publish_json(storage.join(root, MANIFEST), manifest.model_dump())


def _check_gates(config: Config, root: str, step: int) -> None:
    if not config.evaluation.gates:
        return
    split = config.evaluation.split
    metrics, url = read_metrics(root, split), metrics_url(root, split)
    if metrics is None:
        raise UserError(f"evaluation.gates needs {url}, which does not exist; run `twhin evaluate` first")
    if not is_current(metrics, config, step):
        raise UserError(
            f"{url} is not from the newest checkpoint (step {step}), or from other evaluation settings; "
            "run `twhin evaluate` again"
        )
    decision = decide(config, metrics)
    if not decision["passed"]:
        raise GateFailed(f"nothing was exported: {'; '.join(missed(decision))}")
