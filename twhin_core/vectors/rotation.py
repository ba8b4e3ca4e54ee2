"""Rotates the vectors of one version onto those of another: the orthogonal Procrustes problem (Schönemann, 1966).

Every comparator depends on inner products and lengths only, so vectors that one orthogonal matrix multiplies have the
scores that they had, if the relations' operators follow (`Scorer.rotate`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.vectors.rows import Ints, MappedRows, Rows, blocks

BLOCK_BYTES = 16 << 20


class Overlap:
    """What is known of pairs of vectors, now and before: Σ now ⊗ before over all pairs, at length 1.

    At length 1, because that is what the mean cosine depends on, and a few long vectors would outweigh all others.
    """

    def __init__(self, dim: int) -> None:
        self.pairs = 0
        self.products = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, now: Tensor, before: Tensor) -> None:
        """Adds pairs: [n, dim] each."""
        self.pairs += len(now)
        self.products += F.normalize(now.double(), dim=1).T @ F.normalize(before.double(), dim=1)

    def cosine(self, rotation: Tensor | None = None) -> float:
        """The mean cosine of all pairs; 0 for a vector of zeros. `rotation`: of the vectors of now."""
        products = self.products if rotation is None else rotation.T @ self.products
        return float(products.trace()) / self.pairs


def overlap(now: Rows, before: Rows) -> Overlap:
    """That of rows with the same numbers. Streams both."""
    found = Overlap(now.dim)
    for start, vectors in blocks(now, max(1, BLOCK_BYTES // (4 * now.dim))):
        found.add(vectors, before.read(start, start + len(vectors)))
    return found


def fit(overlaps: Iterable[Overlap]) -> Tensor:
    """The orthogonal matrix Q, float64 [dim, dim], with the largest sum of the cosines of now·Q and before.

    Σ ⟨now·Q, before⟩ = tr(Qᵀ·M) for M = Σ now ⊗ before = U·S·Vᵀ, and is largest, tr(S), for Q = U·Vᵀ.
    """
    return nearest_rotation(torch.stack([of.products for of in overlaps]).sum(0))


def nearest_rotation(products: Tensor) -> Tensor:
    """The orthogonal Q with the largest tr(Qᵀ·`products`): [dim, dim]."""
    left, _, right = torch.linalg.svd(products)
    rotation: Tensor = left @ right
    return rotation


def rotated(rows: Rows, rotation: Tensor | None) -> Rows:
    """The rows times a matrix, float32 [dim, dim]; themselves for None."""
    return rows if rotation is None else multiplied(rows, rotation)


def multiplied(rows: Rows, matrix: Tensor) -> Rows:
    """The rows times a matrix, float32 [dim, any]."""

    def multiply(vectors: Tensor, _: Ints) -> Tensor:
        return vectors @ matrix

    return MappedRows(rows, multiply, matrix.shape[1])
