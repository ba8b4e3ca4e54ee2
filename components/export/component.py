"""The export stage as a KFP component; README.md is its contract."""

from typing import Optional

from kfp import dsl

from twhin.components.stage import stage


@stage
def export(
    config: str,
    run_root: str,
    embeddings: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    run: str = "",
    overrides: Optional[list[str]] = None,
) -> bool:
    """Writes the embeddings with their original ids.

    Args:
        config: The config, as YAML, or the path or URL of a YAML file.
        run_root: Folder or URL of the run.
        embeddings: Manifest of the embeddings under the run root.
        report: The report, now with what was exported.
        metrics: The exported step, and the rows of each table.
        summary: Where the embeddings are, and how to compare them.
        run: Id of the pipeline run, which replaces `{run}` in `run_root`.
        overrides: Values of the config to change, each `section.key=value`.

    Returns:
        Whether the config has lists to `recommend`, the next step.
    """
    from twhin.components import step
    from twhin.components import summary as summaries
    from twhin_core import storage
    from twhin_core.export import manifest
    from twhin_core.stages import export

    with step.step():
        settings, run_root = step.read_inputs(config, run_root, run, overrides)
        export.export(settings, run_root)
        made, folder = manifest.read_export_manifest(run_root), storage.join(run_root, "embeddings")
        assert made is not None
        step.publish(embeddings, storage.join(folder, "manifest.json"), uri=folder)
        step.publish_report(report, settings, run_root)
        step.report(metrics, summaries.export_figures(made), summary, summaries.export_text(made, folder))
    return bool(settings.recommend)
