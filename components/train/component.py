"""The train stage as a KFP component; README.md is its contract."""

from typing import Optional

from kfp import dsl

from twhin.components.stage import stage


@stage
def train(
    config: str,
    run_root: str,
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    run: str = "",
    overrides: Optional[list[str]] = None,
) -> None:
    """Learns the embeddings with one rank per GPU, resuming from the newest checkpoint.

    Args:
        config: The config, as YAML, or the path or URL of a YAML file.
        run_root: Folder or URL of the run.
        checkpoint: The run's resolved config. Its metadata has the newest checkpoint's `uri` and `step`.
        metrics: Step, epoch, losses and speed.
        summary: Why training ended, its figures, and how the tables are sharded.
        run: Id of the pipeline run, which replaces `{run}` in `run_root`.
        overrides: Values of the config to change, each `section.key=value`.
    """
    from twhin.components.step import read_inputs, step
    from twhin_core.stages import readers

    with step():
        settings, run_root = read_inputs(config, run_root, run, overrides)
        if readers.serve_if_reader(settings, run_root):
            return

        from twhin.components.train import outputs  # imports torch and GPU libraries, which readers do not need
        from twhin_core.distributed.launch import launch
        from twhin_core.stages import train

        launch(train.train, settings, run_root, readers.find_readers())
        outputs.publish_run(run_root, checkpoint, metrics, summary)
