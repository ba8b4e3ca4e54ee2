"""The evaluate stage: how well does the newest checkpoint rank edges that it was not trained on?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.evaluation.gates import DECISION, check_names, decide, read_decision
from twhin_core.evaluation.metrics import Metrics
from twhin_core.evaluation.result import METRICS, headline, is_current, read_metrics
from twhin_core.progress import log
from twhin_core.run import working
from twhin_core.stages import report

if TYPE_CHECKING:
    from twhin_core.distributed.ranks import Ranks


def evaluate(config: Config, root: str) -> Metrics:
    """Ranks the held-out edges with the newest checkpoint and the baselines, then publishes the metrics and the report.

    Returns existing metrics if they are from the same checkpoint and settings. Under torchrun the ranks share the
    queries, and the first rank writes the results.

    Raises:
        UserError: there is no checkpoint, it is from a different model, the split has no edges, or a gate names an
            unknown metric.
    """
    from twhin_core.distributed.ranks import joined

    check_names(config)
    with joined() as ranks, working(config, root, "evaluate") if ranks.is_first else contextlib.nullcontext():
        ranks.wait()  # until the first rank has claimed the root
        metrics = _find_or_measure(config, root, ranks)
        ranks.wait()  # until the first rank has written
    return metrics


def _find_or_measure(config: Config, root: str, ranks: Ranks) -> Metrics:
    from twhin_core.checkpoints.checkpoint import NoCheckpoint, newest
    from twhin_core.evaluation.measure import measure

    # Ranks must agree on the checkpoint, and training may add or remove one at any time.
    checkpoint, metrics = ranks.of_first(lambda: (newest(root), read_metrics(root)))
    if checkpoint is None:
        raise NoCheckpoint(root)
    if metrics is not None and is_current(metrics, config, checkpoint.step):
        log.info("evaluate: up to date: %s, step %d", storage.join(root, METRICS), checkpoint.step)
        if ranks.is_first and read_decision(root) != decide(config, metrics):  # the gates have changed
            with lease.hold(root, "publish"):
                _write_decision(config, root, metrics)
    else:
        metrics = measure(config, root, checkpoint, ranks=ranks)
        if ranks.is_first:
            publish(config, root, metrics)
            log.info("evaluate: %s", headline(config, metrics))
    if ranks.is_first:
        report.draw_missing(config, root, checkpoint.step)
    return metrics


def publish(config: Config, root: str, metrics: Metrics) -> None:
    """Writes the gate decision and then the metrics; removes the outdated report."""
    with lease.hold(root, "publish"):  # `follow` may publish at the same time
        storage.remove(storage.join(root, METRICS))  # old metrics must not appear with the new decision
        _write_decision(config, root, metrics)
        storage.publish_json(storage.join(root, METRICS), metrics)


def _write_decision(config: Config, root: str, metrics: Metrics) -> None:
    report.remove(root)  # it shows the previous decision
    storage.write_json(storage.join(root, DECISION), decide(config, metrics))
