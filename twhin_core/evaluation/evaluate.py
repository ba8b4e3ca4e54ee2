"""The stage: how well does the newest checkpoint rank edges that it has not seen?"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from twhin_core import __version__, lease, storage
from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.data.splits import has_split, read_split
from twhin_core.errors import UserError
from twhin_core.evaluation import metrics as figures
from twhin_core.evaluation.baselines import Popularity, Random
from twhin_core.evaluation.gates import check_names
from twhin_core.evaluation.metrics import ALL, MRR, Metrics
from twhin_core.evaluation.queries import group
from twhin_core.evaluation.ranking import rank
from twhin_core.evaluation.report import write_report
from twhin_core.evaluation.scores import ModelScores, Scores
from twhin_core.graph.manifest import SPLITS, Schema, read_manifest, read_schema
from twhin_core.model.scorer import SIDES
from twhin_core.progress import Progress, log
from twhin_core.run import stage
from twhin_core.training.checkpoint import Checkpoint, describe, newest

METRICS = "evaluation/metrics.json"
REPORT = "evaluation/report.html"
PLANTED = "raw/planted.json"
MODEL = "model"

Baselines = dict[str, dict[str, dict[str, float]]]
"""Figures of each baseline, by relation."""


@stage("evaluate")
def evaluate(config: Config, root: str) -> Metrics:
    """Ranks the held-out edges by the newest checkpoint and by the baselines; writes the metrics and a report.

    What was evaluated before, from the same checkpoint and in the same way, is found and returned.

    Raises:
        UserError: there is no checkpoint, it is of another model, the split has no edges, or a gate names no metric.
    """
    check_names(config)
    checkpoint = newest(root)
    if checkpoint is None:
        raise UserError(f"{root}: there is no whole checkpoint here; run `twhin train` first")
    found = read_metrics(root)
    if found is not None and is_current(found, config, checkpoint.step) and storage.exists(storage.join(root, REPORT)):
        log.info("evaluate: %s is of this checkpoint, step %d", storage.join(root, METRICS), checkpoint.step)
        return found
    metrics = measure(config, root, checkpoint)
    publish(config, root, metrics)
    log.info("evaluate: %s mrr %.4f", config.evaluation.split, metrics[config.evaluation.split][ALL][MRR])
    return metrics


def measure(config: Config, root: str, checkpoint: Checkpoint, baselines: Baselines | None = None) -> Metrics:
    """Ranks the held-out edges by a checkpoint and, unless theirs are given, by the baselines.

    Raises:
        UserError: the checkpoint is of another model, or the split has no edges.
    """
    schema = read_schema(config, root)
    checkpoint.check_fits(describe(config, schema))
    if ALL in [relation.name for relation in schema.relations]:
        raise UserError(f"model.relations: {ALL!r} is the name of the figures over all relations; rename that one")
    schema = _nodes_only(schema, root)
    splits = _read_splits(config, root, schema)
    scores: dict[str, Scores] = {MODEL: ModelScores(config, schema, checkpoint)}
    if baselines is None:
        scores["popularity"] = Popularity(schema, splits["train"])
        scores["random"] = Random(schema, config.evaluation.seed)
    measured = dict(zip(scores, _measure(scores, splits, schema, config), strict=True))
    metrics: Metrics = {
        config.evaluation.split: measured.pop(MODEL),
        "baselines": measured if baselines is None else baselines,
        "checkpoint": checkpoint.step,
        "config": _digest(config),
        "graph": {"tables": schema.tables, "edges": {name: len(edges) for name, edges in splits.items()}},
        "version": __version__,
    }
    planted = storage.join(root, PLANTED)
    if storage.exists(planted):
        metrics["planted"] = storage.read_json(planted)
    return metrics


def publish(config: Config, root: str, metrics: Metrics) -> None:
    """Writes the report and then the metrics."""
    with lease.hold(root, "publish"):  # evaluation that follows training may publish beside the stage
        storage.remove(storage.join(root, METRICS))  # the report below is not of the metrics that were there
        write_report(storage.join(root, REPORT), metrics, config, root)
        storage.publish_json(storage.join(root, METRICS), metrics)


def read_metrics(root: str) -> Metrics | None:
    """The metrics under the run root, or None where evaluate has not finished."""
    url = storage.join(root, METRICS)
    if not storage.exists(url):
        return None
    metrics: Metrics = storage.read_json(url)
    return metrics


def is_current(metrics: Metrics, config: Config, step: int) -> bool:
    """Whether `metrics` are of the checkpoint `step`, measured as `config` says."""
    return bool(metrics["checkpoint"] == step and metrics["config"] == _digest(config))


def _nodes_only(schema: Schema, root: str) -> Schema:
    """The schema less the rows that no node has: a table may be stated larger than its vocabulary."""
    manifest = read_manifest(root)
    nodes = {entry.name: entry.num_embeddings for entry in manifest.tables} if manifest is not None else {}
    return Schema(schema.tables | nodes, schema.relations)


def _read_splits(config: Config, root: str, schema: Schema) -> dict[str, Edges]:
    needed = ("train", config.evaluation.split)
    return {
        split: read_split(config, root, schema, split)
        for split in SPLITS
        if split in needed or has_split(config, root, split)
    }


def _measure(
    scores: dict[str, Scores], splits: dict[str, Edges], schema: Schema, config: Config
) -> list[dict[str, dict[str, float]]]:
    """The metrics of each of `scores`."""
    evaluation = config.evaluation
    relations = [relation.name for relation in schema.relations]
    queries = {side: group(splits, evaluation.split, side) for side in SIDES}
    measured = []
    with Progress("evaluate", len(scores) * sum(map(len, queries.values())), "queries") as progress:
        for of in scores.values():
            ranks = {side: rank(of, queries[side], schema, evaluation.block_mb, progress) for side in SIDES}
            measured.append(figures.compute(ranks, relations, evaluation))
    return measured


def _digest(config: Config) -> str:
    """Of all that says how to measure and may change between runs on one root; a gate only judges the figures."""
    measuring: dict[str, Any] = {
        "evaluation": config.evaluation.model_dump(exclude={"gates"}),
        "test_data": config.test_data.model_dump() if config.test_data else None,
    }
    return hashlib.sha256(json.dumps(measuring, sort_keys=True).encode()).hexdigest()[:16]
