"""The evaluate stage as a KFP component; README.md beside this file is its contract."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(config: str, run_root: str, metrics: dsl.Output[dsl.Metrics], report: dsl.Output[dsl.HTML]) -> bool:
    """Ranks the held-out edges and checks the gates.

    Args:
        config: The config, as YAML.
        run_root: Folder or gs:// prefix of the run.
        metrics: The overall figures; each relation's stand in the report and in `evaluation/metrics.json`.
        report: The report, one HTML page.

    Returns:
        Whether every gate of `evaluation.gates` holds.
    """
    from components.step import publish, step
    from twhin_core import config_file, storage
    from twhin_core.evaluation import evaluate, gates
    from twhin_core.progress import log

    with step():
        settings = config_file.parse(config)
        found = evaluate.evaluate(settings, run_root)
        split = settings.evaluation.split
        for name, value in found[split]["all"].items():
            metrics.log_metric(f"{split}.all.{name}", value)
        publish(report, storage.join(run_root, evaluate.REPORT), uri=storage.join(run_root, "evaluation"))
        decision = gates.read_decision(run_root)
        assert decision is not None
        for sentence in gates.missed(decision):
            log.warning("%s", sentence)
    return bool(decision["passed"])
