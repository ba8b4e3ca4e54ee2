"""The prepare stage as a KFP component; README.md is its contract."""

from typing import Optional

from kfp import dsl

from twhin.components.stage import stage


@stage
def prepare(
    config: str,
    run_root: str,
    graph: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    run: str = "",
    overrides: Optional[list[str]] = None,
) -> None:
    """Turns raw interactions into a vocabulary and edges.

    Args:
        config: The config, as YAML, or the path or URL of a YAML file.
        run_root: Folder or URL of the run.
        graph: Manifest of the graph under the run root.
        metrics: Nodes per table, edges per split, rejected rows.
        summary: The same as tables, with the edges of each relation.
        run: Id of the pipeline run, which replaces `{run}` in `run_root`.
        overrides: Values of the config to change, each `section.key=value`.
    """
    from pathlib import Path

    from twhin.components import summary as summaries
    from twhin.components.step import publish, read_inputs, report, step
    from twhin_core import storage
    from twhin_core.evaluation.task import check_graph
    from twhin_core.graph import manifest
    from twhin_core.progress import log
    from twhin_core.run import open_run
    from twhin_core.stages import prepare

    with step():
        settings, run_root = read_inputs(config, run_root, run, overrides)
        if settings.prepare is None:
            open_run(settings, run_root, "prepare")  # writes config.yaml, as prepare does
            log.info("prepare: skipped: the config has no such section, so its edges are already prepared")
            graph.metadata["uri"] = settings.train_data.data_root
            Path(summary.path).write_text(f"# Graph\n\nAlready prepared: `{settings.train_data.data_root}`\n")
            return
        made = prepare.prepare(settings, run_root)
        holder = made.holder(run_root)
        publish(graph, storage.join(holder, manifest.MANIFEST), uri=storage.join(holder, "graph"))
        report(metrics, summaries.graph_figures(made), summary, summaries.graph_text(made))
        check_graph(settings, run_root)  # evaluate would fail too, but only after the cost of training
