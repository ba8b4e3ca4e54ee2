"""Exact search: the best candidates of queries and the rank of a candidate, with candidates read block by block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twhin_core.model.scorer import Scorer
from twhin_core.schema import Side
from twhin_core.vectors.rows import Rows, blocks

Score = Callable[[Tensor], Tensor]
"""Scores candidates, float32 [n, dim], for Q queries: [Q, n]; higher is better."""

BLOCK_VALUES = 1 << 22
"""The maximum number of values in a block of candidates, and in its scores."""


@torch.no_grad()
def top_k(score: Score, queries: int, candidates: Rows, k: int, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k best candidates of each of the Q `queries`, best first. Ties are in arbitrary order.

    Args:
        exclude: int64 [Q], a row per query that is not a candidate, such as the query's own node; -1 for none.

    Returns:
        scores float32 [Q, n] and rows int64 [Q, n], where n is k, or the number of candidates if that is smaller. If
        some queries have one candidate fewer than others, their last may be the excluded one, with the score -inf.
    """
    scores, found = torch.empty(queries, 0), torch.empty(queries, 0, dtype=torch.int64)
    count = min(k, candidates.size - (exclude is not None and bool((exclude >= 0).all())))
    for start, vectors in blocks(candidates, max(1, BLOCK_VALUES // max(candidates.dim, queries))):
        of_block = score(vectors)
        if exclude is not None:
            own = ((exclude >= start) & (exclude < start + len(vectors))).nonzero().squeeze(1)
            of_block[own, exclude[own] - start] = -torch.inf
        best, place = of_block.topk(min(count, len(vectors)), 1)
        scores, found = torch.cat([scores, best], 1), torch.cat([found, place + start], 1)
        scores, kept = scores.topk(min(count, scores.shape[1]), 1)
        found = found.gather(1, kept)
    return scores, found


@torch.no_grad()
def rank_of(score: Score, candidates: Rows, row: int, exclude: int | None = None) -> tuple[float, float]:
    """The score of a candidate for one query, and its rank. Ties get the mean of their ranks.

    `exclude`: a row that is not a candidate.
    """
    block_rows = max(1, BLOCK_VALUES // candidates.dim)
    # Scored in the same block as below, because products of other shapes may round differently.
    first = row - row % block_rows
    own = score(candidates.read(first, min(first + block_rows, candidates.size)))[0, row - first]
    higher = equal = 0
    for start, vectors in blocks(candidates, block_rows):
        scores = score(vectors)[0]
        if exclude is not None and start <= exclude < start + len(scores):
            scores[exclude - start] = -torch.inf
        higher += int((scores > own).sum())
        equal += int((scores == own).sum())
    return float(own), 1 + higher + (equal - 1) / 2


@torch.no_grad()
def answers(scorer: Scorer, side: Side, rel: int, given: Tensor, prior: float = 1.0) -> Score:
    """Scores candidates for `side` as answers to the queries of the nodes `given`, float32 [Q, dim], and a relation.

    With `model.prior` for that side, the candidates are [n, dim + 1], the last number their prior, of which `prior` is
    the factor.
    """
    rels = torch.full((1, len(given)), rel)
    queries, offset = scorer.queries(side, rels, given[None]), scorer.offset(side, rels, given[None])

    def score(vectors: Tensor) -> Tensor:
        return scorer.one_to_all(queries, scorer.shared_answers(side, rels, vectors[None]), offset)[0]

    if side not in scorer.prior_sides:
        return score
    return lambda candidates: score(candidates[:, :-1]) + prior * candidates[:, -1]


def similar(given: Tensor) -> Score:
    """Scores candidates by their cosine with the vectors `given`, float32 [Q, dim]."""
    queries = torch.nn.functional.normalize(given, dim=1)
    # Dividing the products by the candidates' norms avoids a normalized copy of the candidates.
    return lambda vectors: queries @ vectors.T / torch.linalg.vector_norm(vectors, dim=1).clamp(min=1e-12)
