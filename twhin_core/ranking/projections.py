"""Queries and candidates projected by a model, so that their inner products rank as its scores do.

A score is a monotone function of the inner product of projected vectors, which have the prior as one more coordinate,
plus a term that all candidates of a query share.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from twhin_core.model.comparators import Dot
from twhin_core.model.scorer import Scorer
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.matched import MatchedPrior, MatchedScorer
from twhin_core.ranking.products import Arithmetic, Candidates, Shape
from twhin_core.ranking.queries import Ints, split_by
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors.prior import Prior
from twhin_core.vectors.rows import Rows, SelectedRows


class Projections:
    """The projections of a model."""

    def __init__(
        self,
        scorer: Scorer | MatchedScorer,
        schema: Schema,
        tables: Mapping[str, Rows],
        arithmetic: Arithmetic,
        memory: int,
        prior: Prior | MatchedPrior | None = None,
    ) -> None:
        """
        Args:
            memory: bytes for the vectors of candidates.
            prior: is part of the scores.
        """
        self._prior = prior
        self._scorer, self._schema, self._tables = scorer, schema, tables
        self._last: tuple[tuple[str, int, Shape], Candidates] | None = None
        self._scorer_on_device = copy.deepcopy(scorer).to(arithmetic.device)
        self.arithmetic, self._memory = arithmetic, memory

    @torch.inference_mode()
    def queries(self, side: Side, rel: Ints, node: Ints) -> Tensor:
        """The queries for `side` of relations [n] and rows [n]: float32 [n, width]."""
        nodes = gather_vectors(self._tables, self._schema, OTHER[side], rel, node)
        rels = torch.from_numpy(rel)
        vectors = self._scorer.queries(side, rels[None], nodes[None])[0]
        return torch.cat([vectors, self._scorer.of_prior(rels, nodes)], 1) if self._has_prior(side) else vectors

    def rows(self, of: CandidateSet) -> Rows:
        """All rows of the candidates' table, with their priors if there are any."""
        rows = self._tables[of.table]
        if self._prior is None or not self._has_prior(of.side):
            return rows
        (rel,) = of.relations.tolist()
        return self._prior.rows(of.side, rel, rows)

    def candidates(self, of: CandidateSet, shape: Shape) -> Candidates:
        """The projected candidates. If both sides have the same ones, the second side reuses those of the first."""
        has_prior = self._has_prior(of.side)
        is_shared = of.drawn is None and not has_prior and self._scorer.shares_candidates(of.side)
        key = of.table, of.size, shape
        if is_shared and self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None  # first, to free what it keeps

        is_plain = isinstance(self._scorer, Scorer) and isinstance(self._scorer.comparator, Dot)
        is_projected = not (is_plain and self._scorer.shares_candidates(of.side))
        rows = SelectedRows(self.rows(of), of.size, of.drawn)
        factors = Candidates(
            rows, partial(self._project, of) if is_projected else None, self.arithmetic, shape, self._memory
        )
        if is_shared:
            self._last = key, factors
        return factors

    @torch.inference_mode()
    def answers(self, of: CandidateSet, columns: Ints) -> Tensor:
        """The projections of some candidates of a set, by number: int64 [n] → float32 [n, width], on the CPU."""
        vectors = SelectedRows(self.rows(of), of.size, of.drawn).gather(columns)
        return self._project(of, vectors.to(self.arithmetic.device)).cpu()

    def _project(self, of: CandidateSet, vectors: Tensor) -> Tensor:
        """Candidates of a set, with their prior if there is one: [n, dim] → [n, width]."""
        rels = torch.full((1, len(vectors)), int(of.relations[0]), device=vectors.device)
        if not self._has_prior(of.side):
            return self._scorer_on_device.answers(of.side, rels, vectors[None])[0]
        answers = self._scorer_on_device.answers(of.side, rels, vectors[None, :, :-1])[0]
        return torch.cat([answers, vectors[:, -1:]], 1)

    def _has_prior(self, side: Side) -> bool:
        return self._prior is not None and side in self._prior.sides


def gather_vectors(tables: Mapping[str, Rows], schema: Schema, side: Side, rel: Ints, node: Ints) -> Tensor:
    """The vectors of the nodes on one side of edges: relations [n] and rows [n] → float32 [n, dim]."""
    names = list(schema.tables)
    vectors = torch.empty(len(node), next(iter(tables.values())).dim)
    for table, edges in split_by(schema.table_numbers[side][rel]):
        vectors[torch.from_numpy(edges)] = tables[names[table]].gather(node[edges])
    return vectors
