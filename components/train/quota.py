"""Whether a TrainJob waits for quota, as Kueue makes it do by suspending it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from twhin.components.train.cluster import Manifest, condition
from twhin_core.progress import log

QUEUE = "kueue.x-k8s.io/queue-name"
REMIND_S = 600.0
"""Seconds between two lines of the log that say so."""


class Wait:
    """Says in the log that a TrainJob waits, and since when, so that it does not seem to hang."""

    def __init__(self) -> None:
        self._said_at: float | None = None

    def is_on(self, job: Manifest) -> bool:
        """Whether the TrainJob waits now."""
        if not job["spec"].get("suspend", False):
            if self._said_at is not None:
                log.info("train: the TrainJob has its quota")
            self._said_at = None
            return False
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= REMIND_S:
            log.info("train: %s", describe(job))
            self._said_at = now
        return True


def describe(job: Manifest) -> str:
    """What a suspended TrainJob waits for, and since when."""
    queue = job["metadata"].get("labels", {}).get(QUEUE)
    what = "the TrainJob is suspended" if queue is None else f"waiting for quota in the Kueue queue {queue}"
    suspended = condition(job, "Suspended")
    since = job["metadata"].get("creationTimestamp") if suspended is None else suspended["lastTransitionTime"]
    if since is None:
        return what
    minutes = max(0, int((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds() // 60))
    return f"{what} since {since}, {minutes} min"
