"""The evaluate stage: how well does the newest checkpoint rank edges that it has not seen?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import DECISION, check_names, decide, read_decision
from twhin_core.evaluation.metrics import Metrics
from twhin_core.evaluation.result import METRICS, headline, is_current, read_metrics
from twhin_core.progress import log
from twhin_core.run import working
from twhin_core.stages import report

if TYPE_CHECKING:
    from twhin_core.distributed.ranks import Ranks


def evaluate(config: Config, root: str) -> Metrics:
    """Ranks the held-out edges by the newest checkpoint and by the baselines; publishes the metrics, draws the report.

    What was evaluated before, from the same checkpoint and in the same way, is found and returned. Under torchrun the
    ranks share the queries, and the first one writes.

    Raises:
        UserError: there is no checkpoint, it is of another model, the split has no edges, or a gate names no metric.
    """
    from twhin_core.distributed.ranks import joined

    check_names(config)
    with joined() as ranks, working(config, root, "evaluate") if ranks.is_first else contextlib.nullcontext():
        ranks.wait()  # the others begin when the root is the first one's
        metrics = _found_or_measured(config, root, ranks)
        ranks.wait()  # none ends before the first has written
    return metrics


def _found_or_measured(config: Config, root: str, ranks: Ranks) -> Metrics:
    from twhin_core.checkpoints.checkpoint import newest
    from twhin_core.evaluation.measure import measure

    # As the first rank sees it: checkpoints may come and go meanwhile.
    checkpoint, metrics = ranks.of_first(lambda: (newest(root), read_metrics(root)))
    if checkpoint is None:
        raise UserError(f"{root}: there is no whole checkpoint here; run `twhin train` first")
    if metrics is not None and is_current(metrics, config, checkpoint.step):
        log.info("evaluate: %s is of this checkpoint, step %d", storage.join(root, METRICS), checkpoint.step)
        if ranks.is_first:
            _follow_gates(config, root, metrics)
    else:
        metrics = measure(config, root, checkpoint, ranks=ranks)
        if ranks.is_first:
            publish(config, root, metrics)
            log.info("evaluate: %s", headline(config, metrics))
    if ranks.is_first:
        report.draw_missing(config, root, checkpoint.step)
    return metrics


def publish(config: Config, root: str, metrics: Metrics) -> None:
    """Writes the gates' decision and then the metrics; removes the report of others."""
    with lease.hold(root, "publish"):  # evaluation that follows training may publish beside the stage
        storage.remove(storage.join(root, METRICS))  # the decision below is not on the metrics that were there
        _write_decision(config, root, metrics)
        storage.publish_json(storage.join(root, METRICS), metrics)


def _follow_gates(config: Config, root: str, metrics: Metrics) -> None:
    """Decides again where the gates are others than those of the decision that stands."""
    if read_decision(root) != decide(config, metrics):
        with lease.hold(root, "publish"):
            _write_decision(config, root, metrics)


def _write_decision(config: Config, root: str, metrics: Metrics) -> None:
    report.remove(root)  # it shows another decision
    storage.write_json(storage.join(root, DECISION), decide(config, metrics))
