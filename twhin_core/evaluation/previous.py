"""An earlier version as a baseline: its newest checkpoint ranks this run's edges, with nodes matched by id.

Relations match if they have the same name and join the same tables.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twhin_core.checkpoints.earlier import EarlierRun
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.schema import Schema
from twhin_core.vectors.ids import Ints
from twhin_core.vectors.names import open_ids

if TYPE_CHECKING:
    from twhin_core.model.scorer import Scorer
    from twhin_core.ranking.matched import MatchedPrior, MatchedRows, MatchedScorer
    from twhin_core.vectors.prior import Prior


class Previous(EarlierRun):
    """An earlier run as a baseline."""

    def __init__(self, root: str, schema: Schema) -> None:
        """
        Args:
            schema: of this run.

        Raises:
            UserError: `root` is not a run root or has no complete checkpoint.
        """
        super().__init__(root, "evaluation.previous")
        places = {(of.name, of.lhs, of.rhs): number for number, of in enumerate(self.schema.relations)}
        self.numbers: Ints = np.array([places.get((of.name, of.lhs, of.rhs), -1) for of in schema.relations], np.int64)
        """The earlier number of each of this run's relations, or -1: int64 [relations]."""

    @property
    def known(self) -> Ints:
        """The numbers of this run's relations that the earlier version has too, ascending."""
        return np.flatnonzero(self.numbers >= 0)

    def check_relations(self, rel: Ints) -> None:
        """Raises UserError if no held-out edge is of a relation that both have. `rel`: that of each held-out edge."""
        if not np.isin(rel, self.known).any():
            raise UserError(
                f"evaluation.previous: {self.root} has none of the relations that edges are held out of here, so there "
                "is nothing to compare; remove it"
            )

    def scorer(self) -> MatchedScorer:
        """The earlier scorer, for the relations of this run and tables from `match_tables`."""
        import torch

        from twhin_core.ranking.matched import MatchedScorer

        return MatchedScorer(self.own_scorer, torch.from_numpy(self.numbers))

    def prior(self) -> MatchedPrior | None:
        """The earlier prior, likewise; None if there was none."""
        from twhin_core.ranking.matched import MatchedPrior

        return None if self.own_prior is None else MatchedPrior(self.own_prior, self.numbers)

    @cached_property
    def own_scorer(self) -> Scorer:
        """The earlier scorer, for its own relations and tables."""
        return self.checkpoint.scorer(self.config.model, self.schema.relations)

    @cached_property
    def own_prior(self) -> Prior | None:
        """The earlier prior, likewise; None if there was none."""
        return self.checkpoint.prior(self.own_scorer, self.schema.relations)

    def match_tables(
        self, config: Config, root: str, schema: Schema, folder: Path, memory: int
    ) -> dict[str, MatchedRows]:
        """The earlier vectors of this run's nodes, by table, as `MatchedRows`.

        Args:
            folder: is created, for files.
            memory: bytes for matching.

        Raises:
            UserError: a vocabulary of either run is broken, DuckDB needs more memory, or `folder` is full.
        """
        from twhin_core.ranking.matched import MatchedRows

        folder.mkdir()
        tables: dict[str, MatchedRows] = {}
        for number, (table, size) in enumerate(schema.tables.items()):
            path, rows = folder / str(number), None
            if table in self.schema.tables:
                rows = self.checkpoint.rows(table)
                here = open_ids(config, root, table, size)
                self.match(table, here, range(size), path, memory, "evaluation.memory_limit")
            tables[table] = MatchedRows(rows, self.config.model.dim, path, size)
        return tables
