"""The evaluate stage as a KFP component; README.md beside this file is its contract."""

from typing import Optional

from kfp import dsl

from twhin.components.stage import stage


@stage
def evaluate(
    config: str,
    run_root: str,
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    run: str = "",
    overrides: Optional[list[str]] = None,
) -> bool:
    """Ranks the held-out edges, with a rank a GPU, and checks the gates.

    Args:
        config: The config, as YAML.
        run_root: Folder or gs:// prefix of the run.
        metrics: The overall figures; each relation's stand in the report and in `evaluation/metrics.json`.
        report: The report, one HTML page.
        summary: Whether the gates hold, and each relation's figures.
        run: Id of the pipeline's run, for which `{run}` in `run_root` stands.
        overrides: Values of the config to change, each `section.key=value`.

    Returns:
        Whether every gate of `evaluation.gates` holds.
    """
    from twhin.components import step
    from twhin.components import summary as summaries
    from twhin.components.run_root import fill_run_root
    from twhin_core.config import file as config_file
    from twhin_core.distributed.launch import launch
    from twhin_core.evaluation import gates, result
    from twhin_core.progress import log
    from twhin_core.stages import evaluate

    with step.step():
        run_root = fill_run_root(run_root, run)
        settings = config_file.parse(config, overrides=overrides or ())
        launch(evaluate.evaluate, settings, run_root)
        found, decision = result.read_metrics(run_root), gates.read_decision(run_root)
        assert found is not None
        assert decision is not None
        step.publish_report(report, run_root)
        missed = gates.missed(decision)
        figures, text = (
            summaries.evaluation_figures(settings, found),
            summaries.evaluation_text(settings, found, missed),
        )
        step.report(metrics, figures, summary, text)
        for sentence in missed:
            log.warning("%s", sentence)
    return bool(decision["passed"])
