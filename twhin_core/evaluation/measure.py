"""From a checkpoint to the figures of its ranking."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from twhin_core import __version__, sizes, storage
from twhin_core.config import Config
from twhin_core.data.frequencies import count_ends
from twhin_core.data.splits import has_split, read_split
from twhin_core.errors import UserError
from twhin_core.evaluation import metrics as figures
from twhin_core.evaluation.baselines import Popularity, by_chance
from twhin_core.evaluation.candidates import candidate_sets
from twhin_core.evaluation.held_out import held_out
from twhin_core.evaluation.metrics import ALL, Figures, Metrics
from twhin_core.evaluation.placing import Chunk, Placer, cut, place
from twhin_core.evaluation.products import Arithmetic
from twhin_core.evaluation.queries import Ints, Queries, group
from twhin_core.evaluation.scores import ModelPlacer
from twhin_core.graph.manifest import SPLITS, Schema, read_manifest, read_schema
from twhin_core.model.scorer import SIDES, Scorer, Side
from twhin_core.progress import Progress
from twhin_core.training.checkpoint import Checkpoint, describe
from twhin_core.training.ranks import Ranks, alone
from twhin_core.vectors.rows import Rows

PLANTED = "raw/planted.json"
MODEL, POPULARITY, RANDOM = "model", "popularity", "random"

Baselines = dict[str, Figures]
"""Figures of each baseline."""


def measure(
    config: Config, root: str, checkpoint: Checkpoint, baselines: Baselines | None = None, ranks: Ranks | None = None
) -> Metrics:
    """Ranks the held-out edges by a checkpoint and, unless theirs are given, by the baselines; all `ranks` together.

    Raises:
        UserError: the checkpoint is of another model, or the split has no edges.
    """
    questions = _Questions(config, root, checkpoint, ranks or alone())
    schema, evaluation = questions.schema, config.evaluation
    placers: dict[str, Placer] = {}
    if baselines is None:
        placers[POPULARITY] = Popularity(count_ends([questions.splits["train"]], schema))
    measured = questions.figures(checkpoint, {name: checkpoint.rows(name) for name in schema.tables}, placers)
    metrics: Metrics = {
        evaluation.split: measured.pop(MODEL),
        "baselines": measured if baselines is None else baselines,
        "checkpoint": checkpoint.step,
        "config": digest(config),
        "graph": {"tables": schema.tables, "edges": {name: len(of) for name, of in questions.splits.items()}},
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
    return _Questions(config, root, checkpoint, alone()).figures(checkpoint, tables, {})[MODEL]


class _Questions:
    """The held-out edges on both sides, and what is known of them."""

    def __init__(self, config: Config, root: str, checkpoint: Checkpoint, ranks: Ranks) -> None:
        schema = read_schema(config, root)
        checkpoint.check_fits(describe(config, schema))
        if ALL in [relation.name for relation in schema.relations]:
            raise UserError(f"model.relations: {ALL!r} is the name of the figures over all relations; rename that one")
        self.config, self.schema, self.ranks = config, _nodes_only(schema, root), ranks
        self.memory = sizes.in_bytes(config.evaluation.memory_limit)
        needed = ("train", config.evaluation.split)
        self.splits = {
            split: read_split(config, root, self.schema, split)
            for split in SPLITS
            if split in needed or has_split(config, root, split)
        }
        self.held = {side: held_out(self.splits[config.evaluation.split], side) for side in SIDES}
        self.known = {side: InMemory(group(self.splits, config.evaluation.split, side)) for side in SIDES}
        self.chunks = {side: self._cut(side) for side in SIDES}

    def _cut(self, side: Side) -> list[Chunk]:
        sets = candidate_sets(self.config.model, self.schema, side)
        dim, memory = self.config.model.dim, self.memory // 4
        return cut(self.held[side], self.known[side].count(), sets, self.schema, dim, memory, self.ranks)

    def figures(
        self, checkpoint: Checkpoint, tables: Mapping[str, Rows], placers: Mapping[str, Placer]
    ) -> dict[str, Figures]:
        """Of the model, of what else is to rank, and of chance."""
        scorer = Scorer(self.config.model, self.schema.relations)
        checkpoint.load_scorer(scorer)
        arithmetic = Arithmetic(self.config.evaluation.precision, self.ranks.device)
        scores = sum(len(chunk.queries) * chunk.candidates.size for side in SIDES for chunk in self.chunks[side])
        with Progress("evaluate", scores, "scores", quiet=not self.ranks.is_first) as progress:
            model = ModelPlacer(scorer, self.schema, tables, arithmetic, self.memory // 2, progress)
            outcomes = {
                side: place(self.held[side], self.known[side], self.chunks[side], {MODEL: model, **placers}, self.ranks)
                for side in SIDES
            }
        relations, evaluation = [relation.name for relation in self.schema.relations], self.config.evaluation
        for side, outcome in outcomes.items():
            outcome.places[RANDOM] = by_chance(self.held[side], outcome, evaluation.seed)
        return {
            name: figures.compute(
                self.held, outcomes, {side: outcomes[side].places[name] for side in SIDES}, relations, evaluation
            )
            for name in (MODEL, *placers, RANDOM)
        }


class InMemory:
    """What is known of the queries of a side, in memory."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def count(self) -> Ints:
        return np.diff(self._queries.offsets)

    def take(self, queries: Ints) -> Queries:
        return self._queries.take(queries)


def _nodes_only(schema: Schema, root: str) -> Schema:
    """The schema less the rows that no node has: a table may be stated larger than its vocabulary."""
    manifest = read_manifest(root)
    nodes = {entry.name: entry.num_embeddings for entry in manifest.tables} if manifest is not None else {}
    return Schema(schema.tables | nodes, schema.relations)


def digest(config: Config) -> str:
    """Of all that says how to measure and may change between runs on one root; a gate only judges the figures."""
    measuring: dict[str, Any] = {
        "evaluation": config.evaluation.model_dump(exclude={"gates", "memory_limit"}),
        "test_data": config.test_data.model_dump() if config.test_data else None,
    }
    return hashlib.sha256(json.dumps(measuring, sort_keys=True).encode()).hexdigest()[:16]
