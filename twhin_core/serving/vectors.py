"""The vectors of a run, held for any number of queries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twhin_core.config import Config
from twhin_core.embeddings.result import Vectors
from twhin_core.embeddings.search import Query, prior_factor
from twhin_core.model.scorer import Scorer
from twhin_core.schema import OTHER, SIDES, Schema, Side
from twhin_core.vectors.held import BLOCK_BYTES, hold_ids, hold_rows
from twhin_core.vectors.ids import Ids
from twhin_core.vectors.rows import Ints, Rows, WithColumn, blocks


class HeldVectors:
    """What `source` holds, read once: it can take the place of an `ExportedVectors` or a `TrainedRun`."""

    def __init__(self, config: Config, schema: Schema, source: Vectors, folder: Path) -> None:
        """
        Args:
            folder: for files that vectors are mapped from. It may be removed when this returns.

        Raises:
            StorageRefused: there is no room in the folder.
            UserError: a file of the run is broken.
        """
        self._config, self._schema, self._source = config, schema, source
        self._ids = {table: hold_ids(source.ids(table)) for table in source.tables}
        self._rows = {
            table: hold_rows(source.rows(table), folder / f"{number}.vectors")
            for number, table in enumerate(source.tables)
        }
        self._priors = {
            (side, rel): _prior(source.candidates(side, rel))
            for rel in range(len(schema.relations))
            for side in SIDES
            if config.model.has_prior(side) and schema.table_of(rel, side) in self._rows
        }

    @property
    def step(self) -> int:
        return self._source.step

    @property
    def tables(self) -> Sequence[str]:
        return list(self._rows)

    def ids(self, table: str) -> Ids:
        """The ids of a table. Raises UserError if it was not exported, and the checkpoint is gone."""
        return self._ids.get(table) or self._source.ids(table)

    def rows(self, table: str) -> Rows:
        """The vectors of a table. Raises as `ids`."""
        return self._rows.get(table) or self._source.rows(table)

    def candidates(self, side: Side, rel: int) -> Rows:
        """As `TrainedRun.candidates`. Raises as `ids`."""
        rows, prior = self.rows(self._schema.table_of(rel, side)), self._priors.get((side, rel))
        return rows if prior is None else WithColumn(rows, lambda positions: prior[torch.from_numpy(positions)])

    def prior_weight(self, side: Side, rel: int) -> float | None:
        """As `ScoredVectors.prior_weight`."""
        return self._source.prior_weight(side, rel)

    def prior_of_counts(self, side: Side, rel: int, counts: Ints) -> Tensor:
        """As `TrainedRun.prior_of_counts`."""
        return self._source.prior_of_counts(side, rel, counts)

    def scorer(self) -> Scorer:
        """Raises UserError if scores cannot be computed, because vectors were normalized and the checkpoint is gone."""
        return self._scorer

    @cached_property
    def _scorer(self) -> Scorer:
        return self._source.scorer().requires_grad_(False)

    def scores(self, query: Query, lhs: Ints, rhs: Ints) -> list[float]:
        """The scores of edges [n] as answers to their queries, by the positions of their ends."""
        rel, side = query.rel, query.side
        assert rel is not None
        given, asked = (lhs, rhs) if side == "rhs" else (rhs, lhs)
        nodes = self.rows(self._schema.table_of(rel, OTHER[side])).gather(given)
        answers = self.rows(self._schema.table_of(rel, side)).gather(asked)
        ends = (nodes, answers) if side == "rhs" else (answers, nodes)
        scores = self.scorer().edges(side, torch.full((len(lhs),), rel), *ends)
        if (side, rel) in self._priors:
            factor = prior_factor(query, self.prior_weight(side, rel))
            scores = scores + factor * self._priors[side, rel][torch.from_numpy(asked)]
        found: list[float] = scores.tolist()
        return found


def _prior(candidates: Rows) -> Tensor:
    """The last column of all rows."""
    block_rows = max(1, BLOCK_BYTES // (4 * candidates.dim))
    parts = [block[:, -1].clone() for _, block in blocks(candidates, block_rows)]
    return torch.cat([torch.from_numpy(np.empty(0, np.float32)), *parts])
