"""The follow stage: evaluates the checkpoints of a run as they appear, alongside the training that writes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import TimedOut, UserError
from twhin_core.evaluation.gates import check_names
from twhin_core.evaluation.labels import check_probe
from twhin_core.evaluation.metrics import Metrics, Ranking
from twhin_core.evaluation.result import headline, is_current, place, read_metrics
from twhin_core.progress import log, waiting
from twhin_core.ranking.queries import Split
from twhin_core.run import stage
from twhin_core.stages import report
from twhin_core.stages.evaluate import publish, with_lists, with_probe
from twhin_core.stages.track import track_after_training
from twhin_core.tracking.open import open_trackers

if TYPE_CHECKING:
    from twhin_core.checkpoints.checkpoint import Checkpoint

Earlier = tuple[Metrics, "Ranking | None"]
"""The metrics of another checkpoint, and the ranking of `evaluation.previous`: what need not be measured again."""


@stage("follow")
def follow(config: Config, root: str, poll_s: float = 2.0) -> None:
    """Evaluates every complete checkpoint, oldest first, until training has finished and all are done.

    `evaluation/<step>/metrics.json` marks a checkpoint as evaluated, now or earlier; `evaluation/metrics.json` and the
    report describe the newest. A checkpoint that is removed before or during its evaluation is skipped.

    Raises:
        UserError: as `evaluate`.
        TimedOut: no new checkpoint appeared for `training.eval_timeout_in_s` seconds.
    """
    from twhin_core.checkpoints.checkpoint import FINISHED, complete
    from twhin_core.stages.old_checkpoints import keep_after_success

    check_names(config)
    check_probe(config.evaluation)
    open_trackers(config.tracking, root)  # refuses before any work, not at the end
    timeout, last_new = config.training.eval_timeout_in_s, time.monotonic()
    seen: set[int] = set()
    earlier: Earlier | None = None
    while True:
        # Checked first, so that the last checkpoint is already listed below.
        is_finished = storage.exists(storage.join(root, FINISHED))
        new = [checkpoint for checkpoint in complete(root) if checkpoint.step not in seen]
        for checkpoint in new:
            earlier = _evaluate(config, root, checkpoint, earlier) or earlier
            seen.add(checkpoint.step)
            last_new = time.monotonic()
        if is_finished and not new:
            log.info("evaluate: training has finished, and all its checkpoints are done")
            keep_after_success(config, root, "follow")
            track_after_training(config, root)
            return
        if time.monotonic() - last_new > timeout:
            raise TimedOut(
                f"{root}: no new checkpoint in {timeout} s (training.eval_timeout_in_s), and training has not finished"
            )
        if not new:
            with waiting("for the next checkpoint"):
                time.sleep(poll_s)


def metrics_url(root: str, step: int, split: Split = "test") -> str:
    return place(root, split, str(step), "metrics.json")


def _evaluate(config: Config, root: str, checkpoint: Checkpoint, earlier: Earlier | None) -> Earlier | None:
    """Evaluates a checkpoint unless it is done or gone."""
    from torch.distributed.checkpoint.api import CheckpointException

    from twhin_core.checkpoints.blocks import MARKER
    from twhin_core.distributed.ranks import alone
    from twhin_core.evaluation.measure import measure

    url = metrics_url(root, checkpoint.step, config.evaluation.split)
    if storage.exists(url):
        done: Metrics = storage.read_json(url)
        if is_current(done, config, checkpoint.step):
            log.info("evaluate: step %d: already done: %s", checkpoint.step, url)
            report.draw_missing(config, root, checkpoint.step)
            return done, None
    try:
        probed = with_probe({}, config, root, checkpoint, alone())  # first, as it may refuse the labels
        found = measure(config, root, checkpoint, *(earlier or ()))
        found = found._replace(metrics=with_lists(found.metrics | probed, config, root, checkpoint, alone()))
    except (OSError, CheckpointException, UserError):
        if storage.exists(storage.join(checkpoint.url, MARKER)):
            raise
        log.info("evaluate: skipped step %d: its checkpoint was removed during evaluation", checkpoint.step)
        return None
    metrics = found.metrics
    storage.write_json(url, metrics)
    newest = read_metrics(root, config.evaluation.split)
    if newest is None or newest["checkpoint"] <= checkpoint.step:
        publish(config, root, found)
        report.draw_missing(config, root, checkpoint.step)
    log.info("evaluate: step %d: %s", checkpoint.step, headline(metrics))
    return metrics, found.before
