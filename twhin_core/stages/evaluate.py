"""The evaluate stage: how well does the newest checkpoint rank edges that it was not trained on?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.durations import measured
from twhin_core.errors import Damaged
from twhin_core.evaluation.gates import Decision, check_names, decide, decision_url, read_decision
from twhin_core.evaluation.kept_ranks import has_ranks, write_ranks
from twhin_core.evaluation.list_metrics import LISTS
from twhin_core.evaluation.metrics import ALL, Metrics, headline_name, names
from twhin_core.evaluation.probe_names import PROBE
from twhin_core.evaluation.result import headline, is_current, metrics_url, read_metrics
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import log, log_of
from twhin_core.ranking.queries import Split
from twhin_core.run import working
from twhin_core.stages import report
from twhin_core.stages.track import tracking

if TYPE_CHECKING:
    from twhin_core.checkpoints.checkpoint import Checkpoint
    from twhin_core.distributed.ranks import Ranks
    from twhin_core.evaluation.measure import Measured


def evaluate(config: Config, root: str) -> Metrics:
    """Ranks the held-out edges with the newest checkpoint and the baselines, then publishes the metrics and the report.

    With `evaluation.lists`, also measures the lists that `recommend` would make; with `evaluation.probe`, what the
    vectors say of a label. Returns existing metrics if they are from the same checkpoint and settings. Under torchrun
    the ranks share the queries and the users, and the first rank writes the results.

    Raises:
        UserError: there is no checkpoint, it is from a different model, the split has no edges, or a gate names an
            unknown metric; or as `recommend`, for lists, or as `measure_probe`, for the probe.
    """
    from twhin_core.distributed.ranks import joined

    log_of(run=root, stage="evaluate")
    check_names(config)
    with joined() as ranks, working(config, root, "evaluate") if ranks.is_first else contextlib.nullcontext():
        ranks.wait()  # until the first rank has claimed the root
        with tracking(config, root) if ranks.is_first else contextlib.nullcontext():
            metrics = _find_or_measure(config, root, ranks)
        ranks.wait()  # until the first rank has written
    return metrics


def _find_or_measure(config: Config, root: str, ranks: Ranks) -> Metrics:
    from twhin_core.checkpoints.checkpoint import NoCheckpoint, last
    from twhin_core.evaluation.measure import measure

    # Ranks must agree on the checkpoint, and training may add or remove one at any time.
    split = config.evaluation.split
    checkpoint, metrics = ranks.of_first(lambda: (last(root), _find_results(config, root)))
    if checkpoint is None:
        raise NoCheckpoint(root)
    log_of(step=checkpoint.step)
    check_names(config, read_schema(config, root).names)
    if metrics is not None and is_current(metrics, config, checkpoint.step):
        log.info("evaluate: up to date: %s, step %d", metrics_url(root, split), checkpoint.step)
        stated = with_probe(metrics | {"headline": headline_name(config.evaluation)}, config, root, checkpoint, ranks)
        stated = with_lists(stated, config, root, checkpoint, ranks)
        if ranks.is_first:
            _update(config, root, metrics, stated)
        metrics = stated
    else:
        with measured(root, "evaluate", machines=ranks.machines) if ranks.is_first else contextlib.nullcontext():
            probed = with_probe({}, config, root, checkpoint, ranks)  # first, as it may refuse the labels
            found = measure(config, root, checkpoint, ranks=ranks)
            metrics = with_lists(found.metrics | probed, config, root, checkpoint, ranks)
        if ranks.is_first:
            publish(config, root, found._replace(metrics=metrics))
            log.info("evaluate: %s", headline(metrics))
    if ranks.is_first:
        report.draw_missing(config, root, checkpoint.step)
    return metrics


def with_probe(metrics: Metrics, config: Config, root: str, checkpoint: Checkpoint, ranks: Ranks) -> Metrics:
    """`metrics` of a checkpoint with the figures of the probe, which are measured unless they are there. A collective.

    Raises:
        UserError: as `measure_probe`.
    """
    if config.evaluation.probe is None:
        return {name: of for name, of in metrics.items() if name != PROBE}
    from twhin_core.evaluation.probe import measure_probe, probe_digest

    digest = ranks.of_first(lambda: probe_digest(config))
    return _with(metrics, PROBE, digest, lambda: ranks.of_first(lambda: measure_probe(config, root, checkpoint)))


def with_lists(metrics: Metrics, config: Config, root: str, checkpoint: Checkpoint, ranks: Ranks) -> Metrics:
    """`metrics` of a checkpoint with the figures of lists, which are measured unless they are there. A collective.

    Raises:
        UserError: as `recommend`.
    """
    if config.evaluation.lists is None:
        return {name: of for name, of in metrics.items() if name != LISTS}
    from twhin_core.export.vector_set import TrainedRun
    from twhin_core.recommend.measure import lists_digest, measure_lists

    def measure() -> Metrics:
        return measure_lists(TrainedRun(config, root, checkpoint, read_schema(config, root)), ranks)

    return _with(metrics, LISTS, ranks.of_first(lambda: lists_digest(config)), measure)


def _with(metrics: Metrics, section: str, digest: str, measure: Callable[[], Metrics]) -> Metrics:
    """The metrics with a section, which is measured unless they have it with the same digest of what it depends on."""
    if metrics.get(section, {}).get("config") == digest:
        return metrics
    return metrics | {section: measure() | {"config": digest}}


def _find_results(config: Config, root: str) -> Metrics | None:
    """The metrics, if no figure is missing, as in those of earlier releases, and the ranks that they are made of."""
    split = config.evaluation.split
    metrics = read_metrics(root, split)
    if metrics is None or not set(names(config.evaluation)) <= metrics[split][ALL].keys():
        return None
    return metrics if has_ranks(root, metrics) else None


def _update(config: Config, root: str, metrics: Metrics, stated: Metrics) -> None:
    """Publishes the metrics as `stated` now, and the decision, if the headline, the lists or the gates have changed."""
    split = config.evaluation.split
    if stated != metrics:
        with lease.hold(root, "publish"):
            _publish(config, root, stated)
    elif not _is_decided(root, split, decide(config, metrics)):
        with lease.hold(root, "publish"):
            _write_decision(config, root, metrics)


def _is_decided(root: str, split: Split, decision: Decision) -> bool:
    """Whether `decision` has been written. A damaged one is written again."""
    try:
        return read_decision(root, split) == decision
    except Damaged:
        return False


def publish(config: Config, root: str, measured: Measured) -> None:
    """Writes the ranks, the gate decision and then the metrics; removes the outdated report."""
    with lease.hold(root, "publish"):  # `follow` may publish at the same time
        storage.remove(metrics_url(root, config.evaluation.split))  # they must not appear with the new ranks
        write_ranks(root, measured.metrics, measured.ranking, measured.relations)
        _publish(config, root, measured.metrics)


def _publish(config: Config, root: str, metrics: Metrics) -> None:
    url = metrics_url(root, config.evaluation.split)
    storage.remove(url)  # old metrics must not appear with the new decision
    _write_decision(config, root, metrics)
    storage.publish_json(url, metrics)


def _write_decision(config: Config, root: str, metrics: Metrics) -> None:
    split = config.evaluation.split
    report.remove(root, split)  # it shows the previous decision
    storage.write_json(decision_url(root, split), decide(config, metrics))
