"""Ranks answers by the scores of a model."""

from __future__ import annotations

from twhin_core.progress import Progress
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.compare import rank
from twhin_core.ranking.products import block_shape
from twhin_core.ranking.projections import Projections
from twhin_core.ranking.queries import FilteredQueries
from twhin_core.ranking.ranks import AnswerRanks, RankQueries


class ModelRanker:
    """Ranks by a model's scores."""

    def __init__(self, projections: Projections, progress: Progress) -> None:
        self._projections, self._progress = projections, progress

    def among(self, candidates: CandidateSet, queries: int) -> RankQueries:
        """See `Ranker.among`. Ranking raises UserError if a score is not finite."""
        shape = block_shape(queries, candidates.size, self._projections.arithmetic.device)
        factors, table = self._projections.candidates(candidates, shape), self._projections.rows(candidates)

        def rank_queries(queries: FilteredQueries) -> AnswerRanks:
            vectors = self._projections.queries(candidates.side, queries.rel, queries.node)
            return rank(queries, vectors, candidates, factors, table, self._progress)

        return rank_queries
