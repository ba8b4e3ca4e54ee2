"""The last step of a refresh as a KFP component; README.md is its contract."""

from kfp import dsl

from twhin.components.stage import stage


@stage
def publish(series: str, version: str, after: str, keep: int, current: dsl.Output[dsl.Artifact]) -> None:
    """Makes a version the one that readers of the series get, and removes old ones.

    Args:
        series: Folder or URL of the series.
        version: Id of the version.
        after: The version that must be the published one until then; empty: none.
        keep: How many of the newest versions to keep; 0: all.
        current: The series' `current.json`.
    """
    from twhin.components import step
    from twhin_core import storage
    from twhin_core.run import CURRENT
    from twhin_core.series import publish, retention

    with step.step():
        publish.publish(series, version, after)
        if keep:
            retention.keep_newest(series, keep)
        step.publish(current, storage.join(series, CURRENT), uri=series)
