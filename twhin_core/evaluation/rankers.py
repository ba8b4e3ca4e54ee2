"""What ranks the held-out answers of queries: a model here; see `baselines.py` and `previous.py` for the others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from twhin_core.evaluation.candidates import CandidateSet
from twhin_core.evaluation.products import Arithmetic, Candidates, Shape, block_shape
from twhin_core.evaluation.queries import FilteredQueries, Ints
from twhin_core.evaluation.ranks import AnswerRanks, rank
from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors.rows import Rows, SelectedRows

RankQueries = Callable[[FilteredQueries], AnswerRanks]


class Ranker(Protocol):
    """A model or a baseline."""

    def among(self, candidates: CandidateSet, queries: int) -> RankQueries:
        """Ranks chunks of the `queries` that have these candidates, `queries` being their number in all."""
        ...


class ModelRanker:
    """Ranks by a model's scores.

    Compares inner products of projected vectors. A score is such a product, plus what all candidates of a query have in
    common, in a monotone function, and these are therefore the ranks of the scores.
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
        """As `Ranker.among`. Raises UserError where scores are not finite."""
        side, table = candidates.side, self._tables[candidates.table]
        factors = self._factors(candidates, block_shape(queries, candidates.size, self._arithmetic.device))

        def ranks(of: FilteredQueries) -> AnswerRanks:
            nodes = gather_vectors(self._tables, self._schema, OTHER[side], of.rel, of.node)
            vectors = self._project_queries(side, of.rel, nodes)
            return rank(of, vectors, candidates, factors, table, self._arithmetic, self._progress)

        return ranks

    def _factors(self, of: CandidateSet, shape: Shape) -> Candidates:
        """The projected candidates; where both sides have the same, those made last."""
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


def gather_vectors(tables: Mapping[str, Rows], schema: Schema, side: Side, rel: Ints, node: Ints) -> Tensor:
    """The vectors of the nodes on one side of edges: of relations [n] and rows [n] → float32 [n, dim]."""
    table_of = np.array([schema.table_of(number, side) for number in range(len(schema.relations))])[rel]
    vectors = torch.empty(len(node), next(iter(tables.values())).dim)
    for table in np.unique(table_of).tolist():
        edges = np.flatnonzero(table_of == table)
        vectors[torch.from_numpy(edges)] = tables[table].gather(node[edges])
    return vectors
