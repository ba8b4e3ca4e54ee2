"""The training loss as a function of the vectors of new nodes, with everything else frozen.

A new node v has three parts in the loss of training. Its own edges e, to trained nodes x_e, ask for x_e and for v:

    Σ_e w_e · [ℓ(score(v → x_e), scores(v → candidates)) + ℓ(score(x_e → v), scores(x_e → candidates))]

where ℓ is the model's loss of a positive and its negatives. And wherever an edge of other nodes asks for a node of v's
table, v may be drawn as a negative. Without this third part nothing holds v away from the queries that it does not
answer, and vectors gather near popular nodes.

All edges of a node share the candidates, so that the scores of a node and a relation are computed once and not for
every edge. A sample of training edges stands for all.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.inductive.edges import Block
from twhin_core.inductive.frozen import Frozen, SampledQueries
from twhin_core.inductive.losses import PositiveLoss
from twhin_core.ranking.queries import Floats, split_by
from twhin_core.schema import OTHER, SIDES, Side
from twhin_core.vectors.rows import Ints


class _Pairs(NamedTuple):
    """E pairs of one of G own nodes and one of M others, sorted by own node."""

    own: Tensor
    """[E]"""
    other: Tensor
    """[E]"""
    first: Tensor
    """[G] the first pair of each own node."""

    def products(self, own: Tensor, others: Tensor) -> Tensor:
        """[E] the inner products of own vectors [G, width] and others [M, width], which are constant."""
        return _Products.apply(own, others, self)  # type: ignore[no-untyped-call, no-any-return]  # untyped in torch


class _Products(torch.autograd.Function):
    """Written by hand because autograd would add up the gradients of an own vector pair by pair."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, others: Tensor, pairs: _Pairs) -> Tensor:
        ctx.others, ctx.pairs = others, pairs
        return (own.index_select(0, pairs.own) * others.index_select(0, pairs.other)).sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        pairs = ctx.pairs
        to_own = F.embedding_bag(pairs.other, ctx.others, pairs.first, mode="sum", per_sample_weights=gradient)
        return to_own, None, None


@dataclass(frozen=True)
class _Kind:
    """The ends of one relation whose queries ask for one side, with all that is computed from trained nodes alone."""

    side: Side
    rel: int
    node: Tensor
    """[G] the distinct new nodes, ascending."""
    pairs: _Pairs
    """Of these and the M distinct other nodes."""
    own_prior: Tensor | None
    """[E] of the new nodes as answers."""
    weight: Tensor
    """[E] w_e over the weight of all edges of the node."""
    answers: Tensor
    """[M, width] the other nodes, projected as answers."""
    prior: Tensor | None
    """[M] of the other nodes as answers."""
    queries: Tensor
    """[M, width] the other nodes, projected as queries for the new ones."""
    offset: Tensor | None
    """[M] of these queries."""
    summed: Tensor
    """[M, …] what the negatives of these queries come down to."""

    def of_nodes(self, nodes: slice) -> _Kind:
        """The ends of the new nodes start … stop - 1, numbered from 0."""
        first = torch.cat([self.pairs.first, self.pairs.first.new_tensor([len(self.weight)])])
        start, stop = torch.searchsorted(self.node, torch.tensor([nodes.start, nodes.stop])).tolist()
        ends = slice(int(first[start]), int(first[stop]))
        pairs = _Pairs(self.pairs.own[ends] - start, self.pairs.other[ends], self.pairs.first[start:stop] - ends.start)
        return replace(
            self, node=self.node[start:stop] - nodes.start, pairs=pairs, weight=self.weight[ends],
            own_prior=None if self.own_prior is None else self.own_prior[ends],
        )  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """Queries of training edges, and what they are for each of n new nodes."""

    sampled: SampledQueries
    loss: PositiveLoss
    prior: Tensor | None
    """[n] of the new nodes as answers."""
    weight: Tensor
    """[n] how likely a draw is the new node, over the weight of all its edges."""

    def of_nodes(self, nodes: slice) -> _Asked:
        return replace(self, prior=None if self.prior is None else self.prior[nodes], weight=self.weight[nodes])


class Objective:
    """The loss of a block of new nodes, a function of their vectors."""

    def __init__(self, frozen: Frozen, block: Block) -> None:
        self._frozen = frozen
        total = np.bincount(block.node, block.weight, len(block)).astype(np.float64)
        share = block.weight / total[block.node]
        kinds: list[_Kind] = []
        counts: dict[tuple[Side, int], Ints] = {}
        for kind, ends in split_by(2 * block.rel + block.asks_rhs):
            rel, side = kind // 2, SIDES[kind % 2]
            of_kind = np.bincount(block.node[ends], minlength=len(block))
            counts[OTHER[side], rel] = of_kind
            kinds.append(self._kind(side, rel, block.node[ends], block.other[ends], share[ends], of_kind))
        none = np.zeros(len(block), np.int64)
        asked = [self._of_sampled(of, counts.get((of.side, of.rel), none), total) for of in frozen.sampled]
        self._parts: list[_Kind | _Asked] = [*kinds, *asked]

    @torch.no_grad()
    def _kind(self, side: Side, rel: int, node: Ints, other: Ints, share: Floats, counts: Ints) -> _Kind:
        frozen, scorer, own = self._frozen, self._frozen.scorer, OTHER[side]
        others, at = np.unique(other, return_inverse=True)
        known, prior = frozen.known(side, rel, others)
        of_known = torch.full((len(others),), rel)
        queries, offset = scorer.queries(own, of_known, known), scorer.offset(own, of_known, known)
        nodes, first, count = np.unique(node, return_index=True, return_counts=True)
        group = np.repeat(np.arange(len(nodes)), count)
        return _Kind(
            side, rel,
            node=torch.from_numpy(nodes),
            pairs=_Pairs(torch.from_numpy(group), torch.from_numpy(at), torch.from_numpy(first)),
            own_prior=frozen.own_prior(own, rel, counts[node]), weight=torch.from_numpy(share).float(),
            answers=scorer.answers(side, of_known, known), prior=prior,
            queries=queries, offset=offset,
            summed=frozen.negatives(own, frozen.like(own, rel)).sum_up(scorer, queries, offset),
        )  # fmt: skip

    def _of_sampled(self, sampled: SampledQueries, counts: Ints, total: Floats) -> _Asked:
        frozen, side, rel = self._frozen, sampled.side, sampled.rel
        weight = frozen.chance(side, rel, counts) / torch.from_numpy(total).float()
        return _Asked(sampled, frozen.negatives(side, rel).loss, frozen.own_prior(side, rel, counts), weight)

    def of_nodes(self, nodes: slice) -> Objective:
        """That of the nodes start … stop - 1 alone."""
        found = copy(self)
        found._parts = [part for part in (whole.of_nodes(nodes) for whole in self._parts) if len(part.weight)]
        return found

    def __call__(self, vectors: Tensor) -> Tensor:
        """The sum over the nodes of their loss over the weight of their edges; vectors [n, dim] → scalar."""
        losses = [
            self._of_kind(part, vectors) if isinstance(part, _Kind) else self._of_asked(part, vectors)
            for part in self._parts
        ]
        return torch.stack(losses).sum()

    def _of_kind(self, kind: _Kind, vectors: Tensor) -> Tensor:
        frozen, scorer, side, own = self._frozen, self._frozen.scorer, kind.side, OTHER[kind.side]
        of_own, of_other = partial(_at, kind.pairs.own), partial(_at, kind.pairs.other)
        given, rel = vectors.index_select(0, kind.node), torch.full((len(kind.node),), kind.rel)
        queries, offset = scorer.queries(side, rel, given), scorer.offset(side, rel, given)
        scores = scorer.finished(kind.pairs.products(queries, kind.answers), of_own(offset))
        negatives = frozen.negatives(side, frozen.like(side, kind.rel))
        summed = negatives.sum_up(scorer, queries, offset)
        asked = negatives.loss.of(_plus(scores, of_other(kind.prior)), summed.index_select(0, kind.pairs.own))
        if scorer.inverse is not None:  # otherwise, an edge has the same score from both sides
            answers = scorer.answers(own, rel, given)
            scores = scorer.finished(kind.pairs.products(answers, kind.queries), of_other(kind.offset))
        loss = frozen.negatives(own, frozen.like(own, kind.rel)).loss
        answered = loss.of(_plus(scores, kind.own_prior), kind.summed.index_select(0, kind.pairs.other))
        return ((asked + answered) * kind.weight).sum()

    def _of_asked(self, asked: _Asked, vectors: Tensor) -> Tensor:
        scorer, sampled = self._frozen.scorer, asked.sampled
        answers = scorer.answers(sampled.side, torch.full((len(vectors),), sampled.rel), vectors)
        scores = scorer.finished(answers @ sampled.queries.T, sampled.offset)
        scores = scores if asked.prior is None else scores + asked.prior[:, None]
        return asked.loss.of_one_more(scores, sampled.positive, sampled.summed, sampled.weight) @ asked.weight


def _at(index: Tensor, values: Tensor | None) -> Tensor | None:
    return None if values is None else values.index_select(0, index)


def _plus(scores: Tensor, prior: Tensor | None) -> Tensor:
    return scores if prior is None else scores + prior
