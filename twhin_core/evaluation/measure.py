"""From a checkpoint to the figures of its ranking."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from twhin_core import __version__, storage
from twhin_core.checkpoints.checkpoint import Checkpoint, describe
from twhin_core.config import Config, Evaluation
from twhin_core.data.edges import Edges
from twhin_core.distributed.ranks import Ranks, alone
from twhin_core.errors import UserError
from twhin_core.evaluation import degrees
from twhin_core.evaluation.baselines import Popularity, by_chance
from twhin_core.evaluation.degrees import ANSWER, QUERY, bucket_of
from twhin_core.evaluation.figures import of_relations
from twhin_core.evaluation.intervals import Groups, intervals
from twhin_core.evaluation.metrics import (
    ALL,
    AUC_REFERENCE,
    MODEL,
    POPULARITY,
    PREVIOUS,
    RANDOM,
    Figures,
    Metrics,
    prefix,
)
from twhin_core.evaluation.placing import Placer
from twhin_core.evaluation.previous import Previous, PreviousPlacer, matched
from twhin_core.evaluation.products import Arithmetic
from twhin_core.evaluation.queries import Ints
from twhin_core.evaluation.questions import Questions, nodes_only, scratch
from twhin_core.evaluation.reference_auc import reference_auc
from twhin_core.evaluation.scores import ModelPlacer, gather_ends
from twhin_core.evaluation.sums import Ranked, sum_up
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import Progress
from twhin_core.schema import SIDES, Schema, Side
from twhin_core.vectors.rows import Rows

PLANTED = "raw/planted.json"


def measure(
    config: Config, root: str, checkpoint: Checkpoint, earlier: Metrics | None = None, ranks: Ranks | None = None
) -> Metrics:
    """Ranks the held-out edges by a checkpoint and by the baselines; all `ranks` together.

    Args:
        earlier: the metrics of another checkpoint of the run, measured in the same way, whose baselines are taken.

    Raises:
        UserError: the checkpoint is of another model, the split has no edges, or what is set cannot be done.
    """
    evaluation, ranks = config.evaluation, ranks or alone()
    schema = _fitting(config, root, checkpoint)
    previous = Previous(evaluation.previous) if evaluation.previous is not None and earlier is None else None
    with scratch() as folder:
        models = [config.model] if previous is None else [config.model, previous.config.model]
        questions = Questions(config, root, schema, models, ranks, folder)
        model = _Model(config, schema, checkpoint)
        ranked = _rank(config, root, questions, model, folder, previous, with_baselines=earlier is None)
        figures = _Figures(evaluation, questions)
        metrics: Metrics = {evaluation.split: figures.of_model(ranked[MODEL], model)}
        metrics["intervals"] = figures.intervals(ranked[MODEL])
        by_degree = {name: figures.by_degree(of) for name, of in ranked.items() if name != RANDOM}
        baselines = {name: figures.of_relations(of) for name, of in ranked.items() if name != MODEL}
    if earlier is not None:
        by_degree, baselines = earlier["degrees"] | by_degree, earlier["baselines"]
    metrics |= {
        "degrees": by_degree,
        "baselines": baselines,
        "candidates": None if evaluation.candidates is None else _candidates(evaluation),
        "checkpoint": checkpoint.step,
        "config": digest(config),
        "graph": {"tables": schema.tables, "edges": questions.edges},
        "version": __version__,
    }
    planted = storage.join(root, PLANTED)
    if storage.exists(planted):
        metrics["planted"] = storage.read_json(planted)
    return metrics


def measure_rows(config: Config, root: str, checkpoint: Checkpoint, tables: Mapping[str, Rows]) -> Figures:
    """The figures of a checkpoint's relations with other vectors for its tables' nodes, as they come of compression.

    Raises:
        UserError: as `measure`.
    """
    schema = _fitting(config, root, checkpoint)
    with scratch() as folder:
        questions = Questions(config, root, schema, [config.model], alone(), folder)
        model = _Model(config, schema, checkpoint, tables)
        ranked = _rank(config, root, questions, model, folder)
        return _Figures(config.evaluation, questions).of_model(ranked[MODEL], model)


def _fitting(config: Config, root: str, checkpoint: Checkpoint) -> Schema:
    """The nodes and relations. Raises UserError if the checkpoint is of others."""
    schema = read_schema(config, root)
    checkpoint.check_fits(describe(config, schema))
    if ALL in [relation.name for relation in schema.relations]:
        raise UserError(f"model.relations: {ALL!r} is the name of the figures over all relations; rename that one")
    return nodes_only(schema, root)


class _Model:
    """A checkpoint's relations with its own tables, or with others."""

    def __init__(
        self, config: Config, schema: Schema, checkpoint: Checkpoint, tables: Mapping[str, Rows] | None = None
    ) -> None:
        self._config, self._schema = config, schema
        self.scorer = checkpoint.scorer(config.model, schema.relations)
        self.tables = tables or {name: checkpoint.rows(name) for name in schema.tables}

    def reference_auc(self, held_out: Iterable[Edges]) -> float:
        def gather(side: Side, rel: Ints, node: Ints) -> Tensor:
            return gather_ends(self.tables, self._schema, side, rel, node)

        return reference_auc(self.scorer, gather, held_out, self._config)


def _rank(
    config: Config,
    root: str,
    questions: Questions,
    model: _Model,
    folder: Path,
    previous: Previous | None = None,
    with_baselines: bool = False,
) -> dict[str, Ranked]:
    """All held-out edges as the model, an earlier version and the baselines rank them, by name."""
    schema, arithmetic = questions.schema, Arithmetic(config.evaluation.precision, questions.ranks.device)
    models = 1 if previous is None else 2
    memory, scores = questions.memory // 4 // models, questions.scores() * models
    with Progress("evaluate", scores, "scores", quiet=not questions.ranks.is_first) as progress:
        placers: dict[str, Placer] = {
            MODEL: ModelPlacer(model.scorer, schema, model.tables, arithmetic, memory, progress)
        }
        if with_baselines:
            placers[POPULARITY] = Popularity(questions.ends)
        if previous is not None:
            rows = matched(config, root, schema, previous, folder / PREVIOUS, questions.memory // 4)
            placers[PREVIOUS] = PreviousPlacer(previous, schema, rows, arithmetic, memory, progress)
        outcomes = questions.rank(placers)
    ranked = {
        name: Ranked(questions.held, outcomes, {side: outcomes[side].places[name] for side in SIDES})
        for name in placers
    }
    if with_baselines:
        chance = {side: by_chance(questions.held[side], outcomes[side], config.evaluation.seed) for side in SIDES}
        ranked[RANDOM] = Ranked(questions.held, outcomes, chance)
    return ranked


class _Figures:
    """What is told of a ranking."""

    def __init__(self, evaluation: Evaluation, questions: Questions) -> None:
        self._evaluation, self._questions = evaluation, questions
        self._relations = [relation.name for relation in questions.schema.relations]
        self._rel = questions.relation_of_queries()

    def of_model(self, ranked: Ranked, model: _Model) -> Figures:
        figures = self.of_relations(ranked)
        auc = model.reference_auc(self._questions.held_out_chunks())
        figures[ALL] |= {prefix(self._evaluation) + AUC_REFERENCE: auc}
        return figures

    def of_relations(self, ranked: Ranked) -> Figures:
        sums = sum_up(ranked, self._evaluation, {"relation": self._rel})
        return of_relations(sums["relation"], self._relations, self._evaluation)

    def intervals(self, ranked: Ranked) -> dict[str, dict[str, list[float]]]:
        groups = Groups(self._rel, len(self._relations), self._evaluation.seed)
        sums = sum_up(ranked, self._evaluation, {"all": groups.of_all, "relation": groups.of_relation})
        return intervals(groups, sums["all"], sums["relation"], self._relations, self._evaluation)

    def by_degree(self, ranked: Ranked) -> dict[str, Figures]:
        bucket = bucket_of(self._questions.degree_of_queries(), self._evaluation)
        sums = sum_up(ranked, self._evaluation, {QUERY: bucket})
        answers = {side: bucket_of(of, self._evaluation) for side, of in self._questions.degree_of_answers().items()}
        return {
            QUERY: degrees.of_queries(sums[QUERY], self._evaluation),
            ANSWER: degrees.of_answers(ranked, answers, self._evaluation),
        }


def _candidates(evaluation: Evaluation) -> dict[str, Any]:
    return {"count": evaluation.candidates, "power": evaluation.candidates_power}


def digest(config: Config) -> str:
    """Of all that says how to measure and may change between runs on one root; a gate only judges the figures."""
    measuring: dict[str, Any] = {
        "evaluation": config.evaluation.model_dump(exclude={"gates", "memory_limit"}),
        "test_data": config.test_data.model_dump() if config.test_data else None,
    }
    return hashlib.sha256(json.dumps(measuring, sort_keys=True).encode()).hexdigest()[:16]
