"""Draws the report after the results that it shows are published, so that a failure loses nothing."""

from __future__ import annotations

import logging

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.errors import in_one_line
from twhin_core.evaluation.result import is_current, place, read_metrics
from twhin_core.progress import log
from twhin_core.ranking.queries import Split


def report_url(root: str, split: Split) -> str:
    return place(root, split, "report.html")


def remove(root: str, split: Split) -> None:
    """Removes an outdated report before new results are published. The caller holds the lease `publish`."""
    storage.remove(report_url(root, split))


def remove_that_of(config: Config, root: str, step: int) -> None:
    """Removes the report of the checkpoint `step`, which lacks what was just made. The caller holds `publish`."""
    metrics = read_metrics(root, config.evaluation.split)
    if metrics is not None and is_current(metrics, config, step):
        remove(root, config.evaluation.split)


def draw_missing(config: Config, root: str, step: int) -> None:
    """Draws the report of the checkpoint `step` if its metrics exist and the report does not.

    A failure is logged in one line, and the next run tries again.
    """
    url = report_url(root, config.evaluation.split)
    with lease.hold(root, "publish"):
        metrics = read_metrics(root, config.evaluation.split)
        if metrics is None or not is_current(metrics, config, step) or storage.exists(url):
            return
        try:
            from twhin_core.report.write import write_report

            write_report(url, metrics, config, root)
        except Exception as error:  # noqa: BLE001 -- a bug in the report must not fail a run that took hours
            log.warning(
                "report: could not be drawn: %s: %s; the metrics are saved, and the next run tries again",
                type(error).__name__, in_one_line(error),
                exc_info=log.isEnabledFor(logging.DEBUG),
            )  # fmt: skip
