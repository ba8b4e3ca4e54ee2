"""What does not change while the vectors of new nodes are fitted: the trained vectors, and samples of their queries."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from twhin_core.config import Config, TrainData
from twhin_core.data.edges import Edges
from twhin_core.data.splits import open_split
from twhin_core.data.windows import Windows
from twhin_core.inductive.edges import TrainedVectors
from twhin_core.inductive.losses import PositiveLoss, make_loss
from twhin_core.model.scorer import Scorer
from twhin_core.ranking.projections import gather_vectors
from twhin_core.ranking.queries import split_by
from twhin_core.schema import OTHER, SIDES, Schema, Side
from twhin_core.vectors.ids import Ids, find_positions
from twhin_core.vectors.rows import Ints, Rows

CANDIDATES = 512
"""Sampled candidates of a query that stand for its negatives."""
QUERIES = 1024
"""Sampled queries of training edges that stand for all that ask for nodes of a table."""
QUERIES_AT_ONCE = 2048
EDGES_PER_WINDOW = 1 << 18


class ScoredVectors(TrainedVectors, Protocol):
    """Vectors of a trained run, and what scores them."""

    def scorer(self) -> Scorer: ...

    def candidates(self, side: Side, rel: int) -> Rows:
        """The vectors of the candidates for `side` of a relation, by position; followed by their priors, if any."""
        ...

    def prior_weight(self, side: Side, rel: int) -> float | None:
        """The weight of log p in the priors of `candidates`; None if an earlier release did not record it."""
        ...

    def prior_of_counts(self, side: Side, rel: int, counts: Ints) -> Tensor:
        """The priors of candidates that have `counts` [n] training edges: float32 [n]."""
        ...


class Negatives(NamedTuple):
    """A sample of the candidates for one side of a relation."""

    answers: Tensor
    """[K, width]"""
    prior: Tensor | None
    """[K]"""
    loss: PositiveLoss

    def sum_up(self, scorer: Scorer, queries: Tensor, offset: Tensor | None) -> Tensor:
        """What they come down to for queries [G, width] with an offset [G]: [G, …]."""
        sums = []
        for start in range(0, max(len(queries), 1), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            scores = scorer.finished(queries[some] @ self.answers.T, None if offset is None else offset[some, None])
            sums.append(self.loss.sum_up(scores if self.prior is None else scores + self.prior))
        return torch.cat(sums) if len(sums) > 1 else sums[0]


class SampledQueries(NamedTuple):
    """S queries of training edges for one side. A new node is a candidate, like any other, and a wrong one."""

    side: Side
    rel: int
    """Of all of them, or, where the projection of candidates does not depend on it, of one."""
    queries: Tensor
    """[S, width]"""
    offset: Tensor | None
    """[S]"""
    positive: Tensor
    """[S] the scores of the true answers."""
    summed: Tensor
    """[S, …] what the negatives come down to."""
    weight: Tensor
    """[S] how many training edges each stands for, times their weight."""


class Frozen:
    """A trained model, in which nodes of one table are new."""

    def __init__(
        self, config: Config, schema: Schema, vectors: ScoredVectors, table: str, edges: Edges, count: int
    ) -> None:
        """
        Args:
            table: that of the new nodes.
            edges: a uniform sample of the training edges between nodes with an id, by position; without order.
            count: how many training edges there are.
        """
        self.scorer, self.schema = vectors.scorer().requires_grad_(False), schema
        self._data, self._model, self._seed = config.train_data, config.model, config.evaluation.seed
        self._vectors, self._edges, self._count = vectors, edges, count
        self._of_relation = np.array([relation.weight for relation in schema.relations], np.float32)
        self._share = np.bincount(edges.rel, minlength=len(schema.relations)) / max(len(edges), 1)
        # Bound to this object, so that they live no longer.
        self._rows: Callable[[Side, int], Rows] = cache(vectors.candidates)
        self.negatives: Callable[[Side, int], Negatives] = cache(self._negatives)
        self.sampled = self._sample_queries(table)

    def known(self, side: Side, rel: int, positions: Ints) -> tuple[Tensor, Tensor | None]:
        """Candidates for `side` of a relation: their vectors [n, dim], and their priors [n] if they have any."""
        found = self._rows(side, self.like(side, rel)).gather(positions)
        return (found[:, :-1], found[:, -1]) if side in self.scorer.prior_sides else (found, None)

    def own_prior(self, side: Side, rel: int, counts: Ints) -> Tensor | None:
        """The priors of new nodes [n] with `counts` edges on that side of the relation, if they have any."""
        return self._vectors.prior_of_counts(side, rel, counts) if side in self.scorer.prior_sides else None

    def chance(self, side: Side, rel: int, counts: Ints) -> Tensor:
        """The probability that a negative of a query for that side is a new node, which has `counts` [n] edges: [n].

        With logQ correction, as if draws were uniform.
        """
        rows, (in_batch, drawn) = self.schema.rows[side][rel], self._drawn
        edges = max(self._share[rel] * self._count, 1)
        of_batch = np.full(len(counts), 1 / rows) if self._are_uniform else counts / edges
        return torch.from_numpy((in_batch * of_batch + (drawn - in_batch) / rows) / drawn).float()

    def like(self, side: Side, rel: int) -> int:
        """The first relation whose candidates for `side` are the same, in the same projection."""
        if not self._are_shared(side):
            return rel
        tables = self.schema.table_numbers[side]
        return int((tables == tables[rel]).argmax())

    def _are_shared(self, side: Side) -> bool:
        return self._are_uniform and self.scorer.shares_candidates(side) and side not in self.scorer.prior_sides

    @property
    def _are_uniform(self) -> bool:
        """Whether negatives weigh as if all were uniform draws."""
        return self._data.logq_correction or not self._data.in_batch_negatives

    @property
    def _drawn(self) -> tuple[int, int]:
        """How many negatives of a query are in-batch ones, and how many there are."""
        data: TrainData = self._data
        return data.in_batch_negatives, data.in_batch_negatives + data.global_negatives

    @torch.no_grad()
    def _negatives(self, side: Side, rel: int) -> Negatives:
        rows, (in_batch, drawn) = self._rows(side, rel), self._drawn
        rng = np.random.default_rng([self._seed, SIDES.index(side), rel])
        found = rng.choice(rows.size, min(rows.size, CANDIDATES), replace=False)
        of_edges = getattr(self._edges, side)[self._edges.rel == rel]
        if not self._are_uniform and len(of_edges):
            of_batch = round(len(found) * in_batch / drawn)
            found = np.concatenate([rng.choice(of_edges, of_batch), found[of_batch:]])
        vectors, prior = self.known(side, rel, np.sort(found))
        weight = rows.size if self._data.full_softmax else in_batch + min(self._data.global_negatives, rows.size)
        answers = self.scorer.answers(side, torch.full((len(found),), rel), vectors)
        return Negatives(answers, prior, make_loss(self._model, drawn, weight, max(len(found), 1)))

    def _sample_queries(self, table: str) -> list[SampledQueries]:
        number = list(self.schema.tables).index(table)
        asking = {side: np.flatnonzero(self.schema.table_numbers[side][self._edges.rel] == number) for side in SIDES}
        share = min(1.0, QUERIES / max(sum(map(len, asking.values())), 1))
        sampled = []
        for side, edges in asking.items():
            sample = self._edges.take(edges[: math.ceil(share * len(edges))])
            like = np.array([self.like(side, rel) for rel in range(len(self.schema.relations))])
            for rel, some in split_by(like[sample.rel]):
                scale = self._count / len(self._edges) * len(edges) / len(sample)
                sampled.append(self._queries_of(side, rel, sample.take(some), scale))
        return sampled

    @torch.no_grad()
    def _queries_of(self, side: Side, like: int, edges: Edges, scale: float) -> SampledQueries:
        """`scale`: how many training edges each stands for."""
        scorer, rel = self.scorer, torch.from_numpy(edges.rel)
        tables = {name: self._vectors.rows(name) for name in self.schema.tables}
        node = gather_vectors(tables, self.schema, OTHER[side], edges.rel, getattr(edges, OTHER[side]))
        answer, prior = self.known(side, like, getattr(edges, side))
        queries, offset = scorer.queries(side, rel, node), scorer.offset(side, rel, node)
        positive = scorer.one_to_one(queries, scorer.answers(side, rel, answer), offset)
        return SampledQueries(
            side, like, queries, offset,
            positive if prior is None else positive + prior,
            self.negatives(side, like).sum_up(scorer, queries, offset),
            torch.from_numpy(edges.weight * self._of_relation[edges.rel]) * scale,
        )  # fmt: skip


def sample_edges(config: Config, root: str, schema: Schema, ids: Callable[[str], Ids]) -> tuple[Edges, int]:
    """Training edges in random order, by the positions of their nodes, and how many training edges there are.

    Edges with a node that has no id are left out. Reads at most `EDGES_PER_WINDOW` edges, of random row groups.

    Raises:
        UserError: as `open_split`.
    """
    files = open_split(config, root, schema, "train")
    window = Windows(files, config.evaluation.seed, EDGES_PER_WINDOW).get((0, 0))
    edges = window.take(np.arange(len(window.edges)))
    index = [ids(name).index for name in schema.tables]
    ends, is_named = {side: getattr(edges, side).copy() for side in SIDES}, np.ones(len(edges), np.bool_)
    for side in SIDES:
        for number, some in split_by(schema.table_numbers[side][edges.rel]):
            ends[side][some], has_id = find_positions(index[number], ends[side][some])
            is_named[some] &= has_id
    return Edges(ends["lhs"], edges.rel, ends["rhs"], edges.weight).take(is_named), len(files)
