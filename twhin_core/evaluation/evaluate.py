"""The stage: how well does the newest checkpoint rank edges that it has not seen?"""

from __future__ import annotations

import contextlib

from twhin_core import lease, storage
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.distributed.ranks import Ranks, joined
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import DECISION, check_names, decide, read_decision
from twhin_core.evaluation.measure import digest, measure
from twhin_core.evaluation.metrics import ALL, MRR, Metrics, prefix
from twhin_core.progress import log
from twhin_core.report import write_report
from twhin_core.run import working

METRICS = "evaluation/metrics.json"
REPORT = "evaluation/report.html"


def evaluate(config: Config, root: str) -> Metrics:
    """Ranks the held-out edges by the newest checkpoint and by the baselines; writes the metrics and a report.

    What was evaluated before, from the same checkpoint and in the same way, is found and returned. Under torchrun the
    ranks share the queries, and the first one writes.

    Raises:
        UserError: there is no checkpoint, it is of another model, the split has no edges, or a gate names no metric.
    """
    check_names(config)
    with joined() as ranks, working(config, root, "evaluate") if ranks.is_first else contextlib.nullcontext():
        ranks.wait()  # the others begin when the root is the first one's
        metrics = _found_or_measured(config, root, ranks)
        ranks.wait()  # none ends before the first has written
    return metrics


def _found_or_measured(config: Config, root: str, ranks: Ranks) -> Metrics:
    # As the first rank sees it: checkpoints may come and go meanwhile.
    checkpoint, found = ranks.of_first(lambda: (newest(root), read_metrics(root)))
    if checkpoint is None:
        raise UserError(f"{root}: there is no whole checkpoint here; run `twhin train` first")
    if found is not None and is_current(found, config, checkpoint.step) and storage.exists(storage.join(root, REPORT)):
        log.info("evaluate: %s is of this checkpoint, step %d", storage.join(root, METRICS), checkpoint.step)
        if ranks.is_first and read_decision(root) != decide(config, found):  # by other gates
            _write_verdict(config, root, found)
        return found
    metrics = measure(config, root, checkpoint, ranks=ranks)
    if ranks.is_first:
        publish(config, root, metrics)
        log.info("evaluate: %s", headline(config, metrics))
    return metrics


def headline(config: Config, metrics: Metrics) -> str:
    """The figure that says most."""
    split, name = config.evaluation.split, prefix(config.evaluation) + MRR
    return f"{split} {name} {metrics[split][ALL][name]:.4f}"


def publish(config: Config, root: str, metrics: Metrics) -> None:
    """Writes the gates' decision, the report and then the metrics."""
    with lease.hold(root, "publish"):  # evaluation that follows training may publish beside the stage
        storage.remove(storage.join(root, METRICS))  # the report below is not of the metrics that were there
        _write_verdict(config, root, metrics)
        storage.publish_json(storage.join(root, METRICS), metrics)


def _write_verdict(config: Config, root: str, metrics: Metrics) -> None:
    """The gates' decision, and the report, which shows it."""
    storage.write_json(storage.join(root, DECISION), decide(config, metrics))
    write_report(storage.join(root, REPORT), metrics, config, root)


def read_metrics(root: str) -> Metrics | None:
    """The metrics under the run root, or None where evaluate has not finished."""
    metrics: Metrics | None = storage.find_json(storage.join(root, METRICS))
    return metrics


def is_current(metrics: Metrics, config: Config, step: int) -> bool:
    """Whether `metrics` are of the checkpoint `step`, measured as `config` says."""
    return bool(metrics["checkpoint"] == step and metrics["config"] == digest(config))
