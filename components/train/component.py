"""The train stage as a KFP component; README.md beside this file is its contract."""

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
    """Learns the embeddings, from the newest checkpoint on if there is one, with a rank a GPU.

    Args:
        config: The config, as YAML.
        run_root: Folder or gs:// prefix of the run.
        checkpoint: The run's resolved config; its metadata hold the newest checkpoint's `uri` and `step`.
        metrics: Steps, epochs, losses and speed.
        summary: Where the tables are, how fast it was and how it ended.
        run: Id of the pipeline's run, for which `{run}` in `run_root` stands.
        overrides: Values of the config to change, each `section.key=value`.
    """
    from twhin.components.run_root import fill_run_root
    from twhin.components.step import step
    from twhin_core.config import file as config_file
    from twhin_core.stages import readers

    with step():
        run_root = fill_run_root(run_root, run)
        settings = config_file.parse(config, overrides=overrides or ())
        if readers.serve_if_reader(settings, run_root):
            return

        from twhin.components.train import outputs  # torch and its libraries for GPUs load on no reader's machine
        from twhin_core.distributed.launch import launch
        from twhin_core.stages import train

        launch(train.train, settings, run_root, readers.find_readers())
        outputs.publish_run(run_root, checkpoint, metrics, summary)
