"""Checks that the cluster can run the train stage, as a KFP component; README.md is its contract."""

from typing import Any

from twhin.components.stage import stage


@stage
def check_cluster(run_root: str, manifests: list[Any], run: str) -> None:
    """Asks the cluster, before any work, whether it would accept the TrainJob. Creates nothing.

    Args:
        run_root: Folder or URL of the run, visible to all machines.
        manifests: The manifests of the train stage.
        run: Id of the pipeline run, which replaces `{run}` in `run_root`.
    """
    from twhin.components.run_root import fill_run_root
    from twhin.components.step import step
    from twhin.components.train import train_job

    with step():
        train_job.check(fill_run_root(run_root, run), manifests)
