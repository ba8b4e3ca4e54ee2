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
    """Learns the embeddings through a TrainJob of Kubeflow Trainer, resuming from the newest checkpoint.

    Args:
        config: The config, as YAML, or the path or URL of a YAML file.
        run_root: Folder or URL of the run, visible to all machines.
        manifests: The TrainJob to create and follow, then the objects that it owns.
        run: Id of the pipeline run, shared by its retries, which replaces `{run}` in `run_root`.
        checkpoint: The run's resolved config. Its metadata has the newest checkpoint's `uri` and `step`.
        metrics: Step, epoch, losses and speed.
        summary: Why training ended, its figures, and how the tables are sharded.
        overrides: Values of the config to change, each `section.key=value`.
    """
    from twhin.components.step import read_inputs, step
    from twhin.components.train import outputs, train_job

    with step():
        settings, run_root = read_inputs(config, run_root, run, overrides)
        train_job.train(settings, run_root, manifests, run)
        outputs.publish_run(run_root, checkpoint, metrics, summary)
