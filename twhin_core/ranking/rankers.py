"""Ranks answers by the scores of a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from twhin_core.model.comparators import Dot
from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.compare import rank
from twhin_core.ranking.matched import MatchedScorer
from twhin_core.ranking.products import Arithmetic, Candidates, Shape, block_shape
from twhin_core.ranking.queries import FilteredQueries, Ints, split_by
from twhin_core.ranking.ranks import AnswerRanks, RankQueries
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors.rows import Rows, SelectedRows


class ModelRanker:
    """Ranks by a model's scores.

    A score is a monotone function of the inner product of projected vectors plus a term that all candidates of a query
    share. Comparing the inner products alone therefore gives the ranks of the scores.
    """

    def __init__(
        self,
        scorer: Scorer | MatchedScorer,
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

        @torch.inference_mode()
        def rank_queries(queries: FilteredQueries) -> AnswerRanks:
            nodes = gather_vectors(self._tables, self._schema, OTHER[side], queries.rel, queries.node)
            vectors = self._scorer.queries(side, torch.from_numpy(queries.rel)[None], nodes[None])[0]
            return rank(queries, vectors, candidates, factors, table, self._progress)

        return rank_queries

    def _factors(self, of: CandidateSet, shape: Shape) -> Candidates:
        """The projected candidates. If both sides have the same ones, the second side reuses those of the first."""
        is_shared = of.drawn is None and self._scorer.shares_candidates(of.side)
        key = of.table, of.size, shape
        if is_shared and self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None  # first, to free what it keeps

        def project(vectors: Tensor) -> Tensor:
            rels = torch.full((1, len(vectors)), int(of.relations[0]), device=vectors.device)
            return self._scorer_on_device.answers(of.side, rels, vectors[None])[0]

        is_plain = isinstance(self._scorer, Scorer) and isinstance(self._scorer.comparator, Dot)
        is_projected = not (is_plain and self._scorer.shares_candidates(of.side))
        rows = SelectedRows(self._tables[of.table], of.size, of.drawn)
        factors = Candidates(rows, project if is_projected else None, self._arithmetic, shape, self._memory)
        if is_shared:
            self._last = key, factors
        return factors


def gather_vectors(tables: Mapping[str, Rows], schema: Schema, side: Side, rel: Ints, node: Ints) -> Tensor:
    """The vectors of the nodes on one side of edges: relations [n] and rows [n] → float32 [n, dim]."""
    names = list(schema.tables)
    vectors = torch.empty(len(node), next(iter(tables.values())).dim)
    for table, edges in split_by(schema.table_numbers[side][rel]):
        vectors[torch.from_numpy(edges)] = tables[names[table]].gather(node[edges])
    return vectors
