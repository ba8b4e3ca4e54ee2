"""The train stage on several machines of a Kubernetes cluster, as a KFP component; README.md is its contract."""

from typing import Any, Optional

from kfp import dsl

from twhin.components.stage import stage


@stage
def train(
    config: str,
    run_root: str,
    manifests: list[Any],
    run: str,
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    overrides: Optional[list[str]] = None,
) -> None:
    """Learns the embeddings by a TrainJob of Kubeflow Trainer, from the newest checkpoint on if there is one.

    Args:
        config: The config, as YAML.
        run_root: Folder or gs:// prefix of the run, which all machines see.
        manifests: The TrainJob to create and to follow, and what it is to own besides.
        run: Id of the pipeline's run, which its retries share; `{run}` in `run_root` stands for it.
        checkpoint: The run's resolved config; its metadata hold the newest checkpoint's `uri` and `step`.
        metrics: Steps, epochs, losses and speed.
        summary: Where the tables are, how fast it was and how it ended.
        overrides: Values of the config to change, each `section.key=value`.
    """
    from twhin.components.run_root import fill_run_root
    from twhin.components.step import step
    from twhin.components.train import outputs, train_job
    from twhin_core.config import file as config_file

    with step():
        run_root = fill_run_root(run_root, run)
        settings = config_file.parse(config, overrides=overrides or ())
        train_job.train(settings, run_root, manifests, run)
        outputs.publish_run(run_root, checkpoint, metrics, summary)
