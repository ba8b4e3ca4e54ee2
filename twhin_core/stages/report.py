"""When the report is drawn: after what it shows is published, so that a report that fails loses nothing."""

from __future__ import annotations

import logging

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.evaluation.result import is_current, read_metrics
from twhin_core.progress import log

REPORT = "evaluation/report.html"


def remove(root: str) -> None:
    """Removes a report that no longer shows what the run has, before that is published; the caller holds `publish`."""
    storage.remove(storage.join(root, REPORT))


def draw_missing(config: Config, root: str, step: int) -> None:
    """Draws the report of the checkpoint `step` where there are metrics of it and no report yet.

    One that cannot be drawn is a line in the log, and the next run tries again.
    """
    url = storage.join(root, REPORT)
    with lease.hold(root, "publish"):
        metrics = read_metrics(root)
        if metrics is None or not is_current(metrics, config, step) or storage.exists(url):
            return
        try:
            from twhin_core.report.write import write_report

            write_report(url, metrics, config, root)
        except Exception as error:  # noqa: BLE001 -- a defect of a drawing must not cost the hours that led up to it
            log.warning(
                "report: it could not be drawn: %s: %s; the metrics stand, and the next run draws it",
                type(error).__name__, " ".join(str(error).split()),
                exc_info=log.isEnabledFor(logging.DEBUG),
            )  # fmt: skip
