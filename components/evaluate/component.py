"""The evaluate stage as a KFP component; README.md is its contract."""

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
    """Ranks the held-out edges, with one rank per GPU, and checks the gates.

    Args:
        config: The config, as YAML, or the path or URL of a YAML file.
        run_root: Folder or URL of the run.
        metrics: Figures over all relations; those of each relation are in the report and `metrics.json`. Its metadata
            says what they are figures of: the checkpoint, code, config and graph.
        report: The report, one HTML page.
        summary: Whether the gates passed, and the figures of each relation.
        run: Id of the pipeline run, which replaces `{run}` in `run_root`.
        overrides: Values of the config to change, each `section.key=value`.

    Returns:
        Whether every gate of `evaluation.gates` passed.
    """
    from twhin.components import step
    from twhin.components import summary as summaries
    from twhin_core.distributed.launch import launch
    from twhin_core.evaluation import gates, result
    from twhin_core.progress import log
    from twhin_core.registry import lineage
    from twhin_core.stages import evaluate

    with step.step():
        settings, run_root = step.read_inputs(config, run_root, run, overrides)
        launch(evaluate.evaluate, settings, run_root)
        split = settings.evaluation.split
        found, decision = result.read_metrics(run_root, split), gates.read_decision(run_root, split)
        assert found is not None
        assert decision is not None
        step.publish_report(report, settings, run_root)
        missed = gates.missed(decision)
        text = summaries.evaluation_text(settings, found, missed)
        step.report(metrics, summaries.evaluation_figures(settings, found), summary, text)
        metrics.metadata.update(lineage.read_facts(run_root, found["checkpoint"]))
        for sentence in missed:
            log.warning("%s", sentence)
    return bool(decision["passed"])
