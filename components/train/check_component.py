"""Whether the train stage will find what it needs in the cluster, as a KFP component; README.md is its contract."""

from typing import Any

from twhin.components.stage import stage


@stage
def check_cluster(run_root: str, manifests: list[Any], run: str) -> None:
    """Asks the cluster, before any work, whether it would take the TrainJob; creates nothing.

    Args:
        run_root: Folder or gs:// prefix of the run, which all machines are to see.
        manifests: As those of the train stage.
        run: Id of the pipeline's run; `{run}` in `run_root` stands for it.
    """
    from twhin.components.run_root import fill_run_root
    from twhin.components.step import step
    from twhin.components.train import train_job

    with step():
        train_job.check(fill_run_root(run_root, run), manifests)
