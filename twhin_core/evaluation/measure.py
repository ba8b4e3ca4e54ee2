"""From a checkpoint to the figures of its ranking."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from twhin_core import __version__
from twhin_core.config import Config
from twhin_core.dependents import note_use
from twhin_core.evaluation.baselines import Popularity, rank_at_random
from twhin_core.evaluation.drift import measure_drift
from twhin_core.evaluation.gates import check_names
from twhin_core.evaluation.group_auc import group_auc
from twhin_core.evaluation.intervals import (
    Intervals,
    group_queries,
    intervals,
    intervals_of_differences,
    sums_by_group,
)
from twhin_core.evaluation.metrics import (
    ALL,
    ANSWER,
    AUC_REFERENCE,
    DIFFERENCES,
    DRIFT,
    MODEL,
    PLANTED,
    POPULARITY,
    PREVIOUS,
    QUERY,
    RANDOM,
    Differences,
    Figures,
    Metrics,
    Ranking,
    bucket_of,
    headline_name,
    names,
    of_buckets,
    of_relations,
    prefix,
    sum_up,
)
from twhin_core.evaluation.planted import PlantedRates, node_numbers
from twhin_core.evaluation.reference_auc import reference_auc
from twhin_core.evaluation.result import digest
from twhin_core.evaluation.task import RankingTask, nodes_only
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import Progress
from twhin_core.ranking.queries import Ints
from twhin_core.ranking.ranks import Ranker
from twhin_core.schema import OTHER, SIDES, Schema
from twhin_core.scratch import scratch

if TYPE_CHECKING:
    from twhin_core.checkpoints.checkpoint import Checkpoint
    from twhin_core.distributed.ranks import Ranks
    from twhin_core.evaluation.previous import Previous
    from twhin_core.model.scorer import Scorer
    from twhin_core.ranking.matched import MatchedRows
    from twhin_core.vectors.prior import Prior
    from twhin_core.vectors.rows import Rows


class Measured(NamedTuple):
    """What `evaluation/` gets."""

    metrics: Metrics
    ranking: Ranking
    """The model's."""
    relations: list[str]
    """By number."""
    before: Ranking | None
    """That of the earlier version, if there is one."""


def measure(
    config: Config,
    root: str,
    checkpoint: Checkpoint,
    earlier: Metrics | None = None,
    before: Ranking | None = None,
    ranks: Ranks | None = None,
) -> Measured:
    """Ranks the held-out edges by a checkpoint and by the baselines. A collective.

    Args:
        earlier: the metrics of another checkpoint of the run, measured in the same way, whose baselines are reused.
        before: the ranking of the earlier version that was measured with them; without it, that version ranks again.

    Raises:
        UserError: the checkpoint is of another model, the split has no edges, or more candidates are to be drawn than
            a table has rows.
    """
    from twhin_core.evaluation.previous import Previous  # needs torch

    evaluation, schema = config.evaluation, _read_schema(config, root, checkpoint)
    previous = None if evaluation.previous is None else Previous(evaluation.previous, schema)
    with scratch("evaluate") as folder:
        models = [config.model] if previous is None else [config.model, previous.config.model]
        task = RankingTask(config, root, schema, models, ranks or _alone(), folder)
        if previous is not None:
            previous.check_relations(task.held["rhs"].rel)
            if task.ranks.is_first:
                note_use(previous.root, root)
        scorer = checkpoint.scorer(config.model, schema.relations)
        prior = checkpoint.prior(scorer, schema.relations)
        tables = {name: checkpoint.rows(name) for name in schema.tables}
        matched: Mapping[str, MatchedRows] = {}
        if previous is not None:
            matched = previous.match_tables(config, root, schema, folder / PREVIOUS, task.memory // 4)
        baseline = None if before else previous
        rankings = _rank(task, scorer, prior, tables, baseline, matched, with_baselines=earlier is None)
        if before is not None:
            rankings[PREVIOUS] = before
        metrics: Metrics = {
            evaluation.split: _of_model(task, scorer, prior, tables, rankings[MODEL]),
            "intervals": _intervals(task, rankings[MODEL]),
            "degrees": _by_degree(task, rankings),
            "baselines": {
                name: _by_relation(task, of) for name, of in rankings.items() if name not in (MODEL, PLANTED, PREVIOUS)
            },
            "headline": headline_name(evaluation),
            "candidates": None,
            "checkpoint": checkpoint.step,
            "config": digest(config),
            "graph": {"tables": schema.tables, "edges": task.edges},
            "version": __version__,
        }
        if PLANTED in rankings:
            metrics[PLANTED] = _by_relation(task, rankings[PLANTED])
        if earlier is not None:
            metrics["degrees"] = earlier["degrees"] | metrics["degrees"]
            metrics |= {name: earlier[name] for name in ("baselines", PLANTED) if name in earlier}
        if previous is not None:
            metrics["baselines"][PREVIOUS], metrics[DIFFERENCES] = _compare(task, rankings, previous.known)
            rows = {name: of.earlier for name, of in matched.items() if of.earlier is not None}
            drift = partial(measure_drift, task, scorer, prior, tables, previous, rows, folder)
            metrics[DRIFT] = task.ranks.of_first(drift)
    if evaluation.candidates is not None:
        metrics["candidates"] = {"count": evaluation.candidates, "power": evaluation.candidates_power}
    return Measured(metrics, rankings[MODEL], task.relations, rankings.get(PREVIOUS))


def measure_rows(config: Config, root: str, checkpoint: Checkpoint, tables: Mapping[str, Rows]) -> Figures:
    """The figures of a checkpoint's relations with other vectors for its nodes, such as compressed ones.

    Raises:
        UserError: as `measure`.
    """
    schema = _read_schema(config, root, checkpoint)
    with scratch("evaluate") as folder:
        task = RankingTask(config, root, schema, [config.model], _alone(), folder)
        scorer = checkpoint.scorer(config.model, schema.relations)
        prior = checkpoint.prior(scorer, schema.relations)
        return _of_model(task, scorer, prior, tables, _rank(task, scorer, prior, tables)[MODEL])


def _alone() -> Ranks:
    from twhin_core.distributed.ranks import alone

    return alone()


def _read_schema(config: Config, root: str, checkpoint: Checkpoint) -> Schema:
    """The nodes and relations. Raises UserError if the checkpoint has others."""
    from twhin_core.checkpoints.description import model_description

    schema = read_schema(config, root)
    checkpoint.check_fits(model_description(config, schema))
    check_names(config, schema.names)
    return nodes_only(schema, root)


def _rank(
    task: RankingTask,
    scorer: Scorer,
    prior: Prior | None,
    tables: Mapping[str, Rows],
    previous: Previous | None = None,
    matched: Mapping[str, MatchedRows] = MappingProxyType({}),
    with_baselines: bool = False,
) -> dict[str, Ranking]:
    """The ranks of all held-out edges by the model, an earlier version and the baselines, by name."""
    from twhin_core.ranking.products import Arithmetic
    from twhin_core.ranking.projections import Projections
    from twhin_core.ranking.rankers import ModelRanker

    evaluation, schema = task.config.evaluation, task.schema
    arithmetic = Arithmetic(evaluation.precision, task.ranks.device)
    models = 1 if previous is None else 2
    memory, scores = task.memory // 4 // models, task.scores() * models
    with Progress("evaluate", scores, "scores", quiet=not task.ranks.is_first) as progress:
        projections = Projections(scorer, schema, tables, arithmetic, memory, prior)
        rankers: dict[str, Ranker] = {MODEL: ModelRanker(projections, progress)}
        if with_baselines:
            rankers[POPULARITY] = Popularity(task.ends)
            if task.config.prepare is not None and (settings := task.config.prepare.generate) is not None:
                rankers[PLANTED] = PlantedRates(settings, schema, node_numbers(task.config, task.root, schema))
        if previous is not None:
            earlier = Projections(previous.scorer(), schema, matched, arithmetic, memory, previous.prior())
            rankers[PREVIOUS] = ModelRanker(earlier, progress)
        results = task.rank(rankers)
    ranks = {name: {side: results[side].ranks[name] for side in SIDES} for name in rankers}
    if with_baselines:
        ranks[RANDOM] = {side: rank_at_random(task.held[side], results[side], evaluation.seed) for side in SIDES}
    return {name: Ranking(task.held, results, of) for name, of in ranks.items()}


def _of_model(
    task: RankingTask, scorer: Scorer, prior: Prior | None, tables: Mapping[str, Rows], ranking: Ranking
) -> Figures:
    figures = _by_relation(task, ranking)
    auc = reference_auc(scorer, tables, task.schema, task.held_out_edges(), task.config, prior)
    figures[ALL] |= {prefix(task.config.evaluation) + AUC_REFERENCE: auc}
    lists = task.explicit_negatives()
    if lists is not None:
        for name, of in group_auc(scorer, tables, task.schema, task.held_out_edges(), lists, prior).items():
            figures[name] |= of
    return figures


def _by_relation(task: RankingTask, ranking: Ranking) -> Figures:
    evaluation = task.config.evaluation
    sums = sum_up(ranking, evaluation, {side: ranking.held[side].rel for side in SIDES})
    return of_relations(sums, task.relations, evaluation)


def _intervals(task: RankingTask, ranking: Ranking) -> Intervals:
    evaluation = task.config.evaluation
    groups = group_queries(ranking, len(task.relations), evaluation.seed)
    return intervals(groups, *sums_by_group(groups, ranking, evaluation), task.relations, evaluation)


def _compare(task: RankingTask, rankings: Mapping[str, Ranking], known: Ints) -> tuple[Figures, Differences]:
    """The earlier version's figures of the relations `known` to both, and how much higher the model's are."""
    evaluation, relations = task.config.evaluation, task.relations
    before, now = (rankings[name].of_relations(known) for name in (PREVIOUS, MODEL))
    groups = group_queries(now, len(relations), evaluation.seed)
    sums = [sums_by_group(groups, ranking, evaluation) for ranking in (before, now)]
    bounds = intervals_of_differences(groups, sums[0], sums[1], relations, evaluation)
    figures = [_by_relation(task, ranking) for ranking in (before, now)]
    differences = {
        relation: {name: [figures[1][relation][name] - figures[0][relation][name], *of[name]] for name in of}
        for relation, of in bounds.items()
    }
    return figures[0], differences


def _by_degree(task: RankingTask, rankings: Mapping[str, Ranking]) -> dict[str, dict[str, Figures]]:
    evaluation = task.config.evaluation
    shown = {QUERY: names(evaluation), ANSWER: names(evaluation, lists=False)}
    bucket = {
        QUERY: {side: bucket_of(task.degree(side, OTHER[side]), evaluation) for side in SIDES},
        ANSWER: {side: bucket_of(task.degree(side, side), evaluation) for side in SIDES},
    }
    return {
        name: {kind: of_buckets(sum_up(ranking, evaluation, bucket[kind]), shown[kind], evaluation) for kind in shown}
        for name, ranking in rankings.items()
        if name not in (RANDOM, PLANTED)
    }
