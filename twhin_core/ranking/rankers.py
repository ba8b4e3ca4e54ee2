"""Rankers that compare vectors: by a model, or by an earlier version of it whose rows are in another order."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.compare import rank
from twhin_core.ranking.products import Arithmetic, Candidates, Shape, block_shape
from twhin_core.ranking.queries import FilteredQueries, Ints
from twhin_core.ranking.ranks import AnswerRanks, RankQueries
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors.rows import Rows, SelectedRows

UNKNOWN = -1e30
"""The score of a candidate that the earlier version does not know: below that of any that it knows."""


class ModelRanker:
    """Ranks by a model's scores.

    A score is a monotone function of the inner product of projected vectors plus a term that all candidates of a query
    share. Comparing the inner products alone therefore gives the ranks of the scores.
    """

    def __init__(
        self,
        scorer: Scorer,
        schema: Schema,
        tables: Mapping[str, Rows],
        arithmetic: Arithmetic,
        memory: int,
        progress: Progress,
    ) -> None:
        """`memory`: bytes for the vectors of candidates."""
        self._scorer, self._schema, self._tables = scorer, schema, tables
        self._last: tuple[tuple[str, int, Shape], Candidates] | None = None
        self._scorer_on_device = copy.deepcopy(scorer).to(arithmetic.device)
        self._arithmetic, self._memory, self._progress = arithmetic, memory, progress

    def among(self, candidates: CandidateSet, queries: int) -> RankQueries:
        """See `Ranker.among`. Ranking raises UserError if a score is not finite."""
        side, table = candidates.side, self._tables[candidates.table]
        factors = self._factors(candidates, block_shape(queries, candidates.size, self._arithmetic.device))

        def ranks(of: FilteredQueries) -> AnswerRanks:
            nodes = gather_vectors(self._tables, self._schema, OTHER[side], of.rel, of.node)
            return rank(of, self._project_queries(side, of.rel, nodes), candidates, factors, table, self._progress)

        return ranks

    def _factors(self, of: CandidateSet, shape: Shape) -> Candidates:
        """The projected candidates. If both sides have the same ones, the second side reuses those of the first."""
        is_shared = of.drawn is None and self._scorer.shares_candidates(of.side)
        key = of.table, of.size, shape
        if is_shared and self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None  # first, to free what it keeps
        side, rel = of.side, int(of.relations[0])
        rows = SelectedRows(self._tables[of.table], of.size, of.drawn)
        factors = Candidates(
            rows, lambda vectors: self._project_answers(side, rel, vectors), self._arithmetic, shape, self._memory
        )
        if is_shared:
            self._last = key, factors
        return factors

    @torch.inference_mode()
    def _project_queries(self, side: Side, rel: Ints, vectors: Tensor) -> Tensor:
        """Nodes of queries [Q, dim] of relations [Q] → [Q, width]."""
        return self._scorer.queries(side, torch.from_numpy(rel)[None], vectors[None])[0]

    @torch.inference_mode()
    def _project_answers(self, side: Side, rel: int, vectors: Tensor) -> Tensor:
        """Candidates [n, dim] → [n, width]."""
        rels = torch.full((1, len(vectors)), rel, device=vectors.device)
        return self._scorer_on_device.answers(side, rels, vectors[None])[0]


class PreviousRanker(ModelRanker):
    """Ranks by the scores of an earlier version.

    The tables are `MatchedRows`: the last number of a vector is 1 if the node is unknown, else 0. That of a projected
    query is `UNKNOWN`, which thereby becomes the score of unknown candidates. If the query's own node or relation is
    unknown, all known candidates score 0.
    """

    def __init__(
        self,
        scorer: Scorer,
        numbers: Ints,
        schema: Schema,
        tables: Mapping[str, Rows],
        arithmetic: Arithmetic,
        memory: int,
        progress: Progress,
    ) -> None:
        """
        Args:
            scorer: of the earlier version.
            numbers: the earlier number of each relation of `schema`, or -1.
        """
        super().__init__(scorer, schema, tables, arithmetic, memory, progress)
        self._numbers = numbers

    def _project_queries(self, side: Side, rel: Ints, vectors: Tensor) -> Tensor:
        known = torch.from_numpy(self._numbers[rel] >= 0) & (vectors[:, -1] == 0)
        queries = super()._project_queries(side, np.maximum(self._numbers[rel], 0), vectors[:, :-1])
        flag = torch.full((len(queries), 1), UNKNOWN)
        return torch.cat([queries * known[:, None], flag], 1)

    def _project_answers(self, side: Side, rel: int, vectors: Tensor) -> Tensor:
        answers = super()._project_answers(side, max(int(self._numbers[rel]), 0), vectors[:, :-1])
        return torch.cat([answers, vectors[:, -1:]], 1)


class MatchedRows:
    """The vectors of an earlier version in the order of this version's rows; see `PreviousRanker`."""

    def __init__(self, rows: Rows | None, dim: int, path: Path, size: int) -> None:
        """
        Args:
            rows: the earlier vectors [m, dim], or None if the earlier version has no such table.
            path: a file with the earlier row of each row, or -1, as int64 [size]. Read only if there are `rows`.
        """
        self._rows, self._path, self.size, self.dim = rows, path, size, dim + 1

    def read(self, start: int, stop: int) -> Tensor:
        return self.gather(np.arange(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        vectors = torch.zeros(len(rows), self.dim)
        vectors[:, -1] = 1
        if self._rows is not None:
            earlier = np.asarray(np.memmap(self._path, np.int64, "r")[rows])
            known = np.flatnonzero(earlier >= 0)
            found = torch.from_numpy(known)
            vectors[found, :-1] = self._rows.gather(earlier[known])
            vectors[found, -1] = 0
        return vectors


def gather_vectors(tables: Mapping[str, Rows], schema: Schema, side: Side, rel: Ints, node: Ints) -> Tensor:
    """The vectors of the nodes on one side of edges: relations [n] and rows [n] → float32 [n, dim]."""
    table_of = np.array([schema.table_of(number, side) for number in range(len(schema.relations))])[rel]
    vectors = torch.empty(len(node), next(iter(tables.values())).dim)
    for table in np.unique(table_of).tolist():
        edges = np.flatnonzero(table_of == table)
        vectors[torch.from_numpy(edges)] = tables[table].gather(node[edges])
    return vectors
