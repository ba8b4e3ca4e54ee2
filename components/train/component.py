"""The train stage as a KFP component; README.md beside this file is its contract."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(config: str, run_root: str, checkpoint: dsl.Output[dsl.Model]) -> None:
    """Learns the embeddings, from the newest checkpoint on if there is one.

    Args:
        config: The config, as YAML.
        run_root: Folder or gs:// prefix of the run.
        checkpoint: The run's resolved config; its metadata hold the newest checkpoint's `uri` and `step`.
    """
    import os

    from components.step import publish, step
    from twhin_core import config_file, storage
    from twhin_core.data.readers import parse_readers
    from twhin_core.training import checkpoint as checkpoints
    from twhin_core.training import train

    with step():
        train.train(config_file.parse(config), run_root, parse_readers(os.environ.get("TWHIN_READERS")))
        newest = checkpoints.newest(run_root)
        assert newest is not None
        publish(checkpoint, storage.join(run_root, "config.yaml"), uri=newest.url)
        checkpoint.metadata["step"] = newest.step
