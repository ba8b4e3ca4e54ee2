"""Clusters of the nodes that lists are made of, by k-means over their vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from twhin_core.errors import UserError
from twhin_core.export import faiss_library
from twhin_core.ranking.products import NOT_FINITE
from twhin_core.ranking.queries import Ints
from twhin_core.vectors.rows import Rows, blocks

ITERATIONS, TRAINED_ON_PER_CLUSTER, SEED = 20, 256, 0
BLOCK_ROWS = 65_536


def find_clusters(rows: Rows, point: Callable[[Tensor], Tensor], clusters: int, is_spherical: bool) -> Ints:
    """The cluster of each row: int64 [N].

    The centroids are learned from a sample, with one thread, so that every rank finds the same.

    Args:
        point: vectors float32 [n, dim] → the points to cluster, float32 [n, dim].
        is_spherical: centroids have length 1, as the points have.

    Raises:
        UserError: faiss is not installed, or a number is not finite.
    """
    faiss = faiss_library.load("recommend: mixtures")
    count = min(rows.size, TRAINED_ON_PER_CLUSTER * clusters)
    sample = np.sort(np.random.default_rng(SEED).choice(rows.size, count, replace=False, shuffle=False))
    points = _finite(point(rows.gather(sample)))
    k_means = faiss.Kmeans(
        points.shape[1], clusters, niter=ITERATIONS, spherical=is_spherical, seed=SEED + 1,
        min_points_per_centroid=1, max_points_per_centroid=TRAINED_ON_PER_CLUSTER,
    )  # fmt: skip
    faiss.omp_set_num_threads(1)
    k_means.train(points.numpy())
    faiss.omp_set_num_threads(torch.get_num_threads())
    centroids = torch.from_numpy(k_means.centroids)
    half_squares, found = centroids.square().sum(1) / 2, np.empty(rows.size, np.int64)
    for start, vectors in blocks(rows, BLOCK_ROWS):
        nearest = (_finite(point(vectors)) @ centroids.T - half_squares).argmax(1)
        found[start : start + len(vectors)] = nearest.numpy()
    return found


def _finite(points: Tensor) -> Tensor:
    if not bool(torch.isfinite(points).all()):
        raise UserError(NOT_FINITE)
    return points
