"""Matrices that map the vectors of one version to those that another has of the same nodes.

Both kinds have the smallest Σ|x·M - y|² among their kind, over pairs of vectors x now and y before, and need sums over
the pairs alone: all vectors may be streamed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from twhin_core.vectors.rotation import nearest_rotation

RIDGE = 0.1
"""Of the mean squared length of x, which is added to every direction.

A matrix whose entries are about as large as an orthogonal one's has, before anything is seen, a variance of 1/dim each;
an error of e·|y| leaves a variance of e²·|y|²/dim. The ridge that suits both is their ratio: .1 for an error of .3.
"""


class Pairs:
    """What is known of pairs of vectors: Σ x ⊗ x, [dim, dim], and Σ x ⊗ y, [dim, dim of y]."""

    def __init__(self, dim: int, dim_before: int) -> None:
        self.count = 0
        self._squares = torch.zeros(dim, dim, dtype=torch.float64)
        self._products = torch.zeros(dim, dim_before, dtype=torch.float64)

    def add(self, now: Tensor, before: Tensor) -> None:
        """Adds pairs: [n, dim] and [n, dim of y]."""
        self.count += len(now)
        self._squares += now.double().T @ now.double()
        self._products += now.double().T @ before.double()

    def orthogonal(self) -> Tensor:
        """The best orthogonal matrix, float64 [dim, dim]: |x·Q| = |x|, so that of -2·Σ⟨x·Q, y⟩ alone depends on it."""
        return nearest_rotation(self._products)

    def linear(self) -> Tensor:
        """The best matrix, float64 [dim, dim of y], if λ·|M|² is added to the sum: (Σ x ⊗ x + λ)⁻¹ · Σ x ⊗ y."""
        ridge = RIDGE * self._squares.trace() / self.count
        of_ridge = ridge * torch.eye(len(self._squares), dtype=torch.float64)
        matrix: Tensor = torch.linalg.solve(self._squares + of_ridge, self._products)
        return matrix
