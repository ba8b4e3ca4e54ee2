"""What can score every candidate of a query: the model here, the baselines in `baselines.py`."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from twhin_core.config import Config
from twhin_core.graph.manifest import Schema
from twhin_core.model.scorer import Scorer, Side
from twhin_core.training.checkpoint import Checkpoint

OTHER: dict[Side, Side] = {"lhs": "rhs", "rhs": "lhs"}


class Scores(Protocol):
    """Scores all candidates of queries of one relation, higher is better."""

    def scores(self, side: Side, rel: int, given: Tensor) -> Tensor:
        """Scores of every row of the table on `side` of relation `rel`.

        Args:
            side: the side asked for.
            given: int64 [Q], row of each query's known end in the table of the other side.

        Returns:
            float32 [Q, N], or [1, N] where they are the same for every query; the caller may overwrite it.
        """
        ...


class ModelScores:
    """A checkpoint's scores. Holds in memory each table that it has been asked about."""

    def __init__(self, config: Config, schema: Schema, checkpoint: Checkpoint) -> None:
        self._schema, self._checkpoint = schema, checkpoint
        self._scorer = Scorer(config.model, schema.relations)
        checkpoint.load_scorer(self._scorer)
        self._tables: dict[str, Tensor] = {}

    @torch.no_grad()
    def scores(self, side: Side, rel: int, given: Tensor) -> Tensor:
        """As `Scores.scores`."""
        queries = self._table(rel, OTHER[side])[given]
        candidates = self._table(rel, side)
        return self._scorer.candidates(side, torch.full((1, len(given)), rel), queries[None], candidates[None])[0]

    def _table(self, rel: int, side: Side) -> Tensor:
        """float32 [N, dim], every row of the table on `side` of relation `rel`."""
        name = self._schema.table_of(rel, side)
        if name not in self._tables:
            self._tables[name] = self._checkpoint.rows(name).read(0, self._schema.tables[name])
        return self._tables[name]
