"""The prepare stage as a KFP component; README.md beside this file is its contract."""

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
        config: The config, as YAML.
        run_root: Folder or gs:// prefix of the run.
        graph: Manifest of the graph under the run root.
        metrics: Nodes a table, edges a split, rejected rows.
        summary: The same, and edges a relation, as tables.
        run: Id of the pipeline's run, for which `{run}` in `run_root` stands.
        overrides: Values of the config to change, each `section.key=value`.
    """
    from pathlib import Path

    from twhin.components import summary as summaries
    from twhin.components.run_root import fill_run_root
    from twhin.components.step import publish, report, step
    from twhin_core import storage
    from twhin_core.config import file as config_file
    from twhin_core.evaluation.task import check_graph
    from twhin_core.graph import manifest
    from twhin_core.progress import log
    from twhin_core.run import open_run
    from twhin_core.stages import prepare

    with step():
        run_root = fill_run_root(run_root, run)
        settings = config_file.parse(config, overrides=overrides or ())
        if settings.prepare is None:
            open_run(settings, run_root, "prepare")  # which leaves config.yaml there, as prepare does
            log.info("prepare: the config has no such section; its edges are prepared already")
            graph.metadata["uri"] = settings.train_data.data_root
            Path(summary.path).write_text(f"# Graph\n\nPrepared already: `{settings.train_data.data_root}`\n")
            return
        made = prepare.prepare(settings, run_root)
        publish(graph, storage.join(run_root, manifest.MANIFEST), uri=storage.join(run_root, "graph"))
        report(metrics, summaries.graph_figures(made), summary, summaries.graph_text(made))
        check_graph(settings, run_root)  # by which evaluate would fail, when training has been paid for
