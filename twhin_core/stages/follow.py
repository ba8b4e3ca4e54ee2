"""The follow stage: evaluates the checkpoints of a run as they appear, beside the training that writes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import TimedOut, UserError
from twhin_core.evaluation.gates import check_names
from twhin_core.evaluation.metrics import Metrics
from twhin_core.evaluation.result import headline, is_current, read_metrics
from twhin_core.progress import log
from twhin_core.run import stage
from twhin_core.stages import report
from twhin_core.stages.evaluate import publish

if TYPE_CHECKING:
    from twhin_core.checkpoints.checkpoint import Checkpoint

SECONDS_BETWEEN_LOOKS = 2.0


@stage("follow")
def follow(config: Config, root: str, seconds_between_looks: float = SECONDS_BETWEEN_LOOKS) -> None:
    """Evaluates every whole checkpoint, oldest first, until training has finished and its last one is done.

    `evaluation/<step>/metrics.json` marks a checkpoint done, in this call or an earlier one; `evaluation/metrics.json`
    and the report are of the newest of them. One that is removed before its turn, or during it, is passed over.

    Raises:
        UserError: as `evaluate`.
        TimedOut: no new checkpoint came within `training.eval_timeout_in_s` seconds.
    """
    from twhin_core.checkpoints.checkpoint import FINISHED, complete

    check_names(config)
    timeout, last_new = config.training.eval_timeout_in_s, time.monotonic()
    seen: set[int] = set()
    earlier: Metrics | None = None
    while True:
        # Asked first: the checkpoints that were written before the end are then seen below.
        is_finished = storage.exists(storage.join(root, FINISHED))
        waiting = [checkpoint for checkpoint in complete(root) if checkpoint.step not in seen]
        for checkpoint in waiting:
            earlier = _evaluate(config, root, checkpoint, earlier) or earlier
            seen.add(checkpoint.step)
            last_new = time.monotonic()
        if is_finished and not waiting:
            log.info("evaluate: training has finished, and all its checkpoints are done")
            return
        if time.monotonic() - last_new > timeout:
            raise TimedOut(
                f"{root}: no new checkpoint in {timeout} s (training.eval_timeout_in_s), and training has not finished"
            )
        if not waiting:
            time.sleep(seconds_between_looks)


def metrics_of(root: str, step: int) -> str:
    """Where the metrics of one checkpoint are."""
    return storage.join(root, "evaluation", str(step), "metrics.json")


def _evaluate(config: Config, root: str, checkpoint: Checkpoint, earlier: Metrics | None) -> Metrics | None:
    """Evaluates one checkpoint unless it is done or gone; `earlier`: of another one, with the same baselines."""
    from torch.distributed.checkpoint.api import CheckpointException

    from twhin_core.checkpoints.checkpoint import MARKER
    from twhin_core.evaluation.measure import measure

    url = metrics_of(root, checkpoint.step)
    if storage.exists(url):
        found: Metrics = storage.read_json(url)
        if is_current(found, config, checkpoint.step):
            log.info("evaluate: step %d is done, see %s", checkpoint.step, url)
            report.draw_missing(config, root, checkpoint.step)
            return found
    try:
        metrics = measure(config, root, checkpoint, earlier)
    except (OSError, CheckpointException, UserError):
        if storage.exists(storage.join(checkpoint.url, MARKER)):
            raise
        log.info("evaluate: the checkpoint of step %d was removed before it was done", checkpoint.step)
        return None
    storage.write_json(url, metrics)
    newest = read_metrics(root)
    if newest is None or newest["checkpoint"] <= checkpoint.step:
        publish(config, root, metrics)
        report.draw_missing(config, root, checkpoint.step)
    log.info("evaluate: step %d: %s", checkpoint.step, headline(config, metrics))
    return metrics
