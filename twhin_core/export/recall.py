"""The recall of an index, measured with queries like those it will serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from twhin_core.export.vector_set import VectorSet
from twhin_core.vectors.top_k import top_k

if TYPE_CHECKING:
    from torch import Tensor

Search = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64]]
"""Queries float32 [Q, dim] → rows of the table int64 [Q, K], -1 where nothing was found."""

K = 10
QUERIES = 200
ROUNDING = 1e-5
"""Relative difference up to which two scores count as equal: faiss and torch sum in different orders."""


def measure(vector_set: VectorSet, is_distance: bool, search: Search, has_prior: bool = False) -> tuple[float, int]:
    """recall@K (the mean share of found rows that score as high as the K-th best), and the number of queries.

    `has_prior`: the last coordinate of the vectors is their prior.
    """
    import torch

    queries = make_queries(vector_set)
    if has_prior:
        of_vectors = queries[:, : vector_set.dim - 1]
        queries = torch.cat([of_vectors, torch.ones(len(queries), 1)], 1)

    def score(vectors: Tensor) -> Tensor:
        return -torch.cdist(queries, vectors) if is_distance else queries @ vectors.T

    best = top_k(score, len(queries), vector_set.rows, K)[0]
    rows = torch.from_numpy(search(queries.numpy())[:, : best.shape[1]])
    positions = rows if vector_set.index is None else torch.from_numpy(np.searchsorted(vector_set.index, rows.numpy()))
    vectors = vector_set.rows.gather(positions.clamp(0, vector_set.size - 1).flatten().numpy())
    found = vectors.view(*rows.shape, -1)
    if is_distance:
        scores = -torch.linalg.vector_norm(queries[:, None] - found, dim=-1)
    else:
        scores = (queries[:, None] * found).sum(-1)
    last = best[:, -1:]
    hits = (scores >= last - ROUNDING * last.abs()) & (rows >= 0)
    return hits.float().mean().item(), len(queries)


def make_queries(vector_set: VectorSet) -> Tensor:
    """Random nodes with the operators of the relations that end at the table applied: float32 [Q, dim].

    If no relation ends at the table, the queries are its own vectors. Rows without an id have not been trained and are
    no queries.
    """
    import torch

    run, rng = vector_set.run, np.random.default_rng(0)
    rels = [rel for rel, relation in enumerate(run.schema.relations) if relation.rhs == vector_set.table]
    if not rels:
        return vector_set.rows.gather(vector_set.sample(QUERIES))
    scorer = run.scorer()
    chosen = rng.permutation(np.resize(rels, QUERIES))
    parts = []
    for rel in np.unique(chosen).tolist():
        lhs = run.rows(run.schema.relations[rel].lhs)
        given = lhs.gather(rng.integers(lhs.size, size=int((chosen == rel).sum())))
        with torch.no_grad():
            parts.append(scorer.operator(torch.full((len(given),), rel), given))
    return torch.cat(parts)
