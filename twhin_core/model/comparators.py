"""How operator(θ_lhs) and θ_rhs are compared: by a function of one inner product of their projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Comparator:
    """score(a, b) = finish(⟨query(a), answer(b)⟩), which makes all scores of a chunk one matrix product.

    Every comparator is symmetric: either vector may be the query.
    """

    commutes_with_operators: bool = False
    """Whether an operator on one vector can move to the other as its adjoint."""

    def query(self, vectors: Tensor) -> Tensor:
        """[..., dim] → [..., width]."""
        return vectors

    def answer(self, vectors: Tensor) -> Tensor:
        """[..., dim] → [..., width]."""
        return vectors

    def finish(self, products: Tensor) -> Tensor:
        """Inner products [...] → scores [...]."""
        return products

    def point(self, vectors: Tensor) -> Tensor:
        """The point that stands for either vector: [..., dim] → [..., dim]."""
        return vectors

    def pairs(self, points: Tensor, others: Tensor) -> Tensor:
        """Scores of pairs of points: [..., dim] each → [...]."""
        return (points * others).sum(-1)


class Dot(Comparator):
    """⟨a, b⟩."""

    commutes_with_operators = True


class Cosine(Comparator):
    """⟨a, b⟩ / |a||b|."""

    def query(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)

    def answer(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)

    def point(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


class SquaredL2(Comparator):
    """-|a - b|² = ⟨(2a, -|a|², -1), (b, 1, |b|²)⟩."""

    def query(self, vectors: Tensor) -> Tensor:
        square = vectors.square().sum(-1, keepdim=True)
        return torch.cat([2 * vectors, -square, -torch.ones_like(square)], -1)

    def answer(self, vectors: Tensor) -> Tensor:
        square = vectors.square().sum(-1, keepdim=True)
        return torch.cat([vectors, torch.ones_like(square), square], -1)

    def pairs(self, points: Tensor, others: Tensor) -> Tensor:
        return self.finish(-(points - others).square().sum(-1))


class L2(SquaredL2):
    """-|a - b|."""

    def finish(self, products: Tensor) -> Tensor:
        # Rounding can make a small distance negative, and the root has no derivative at 0.
        return -(-products).clamp(min=1e-12).sqrt()


COMPARATORS: dict[str, type[Comparator]] = {"dot": Dot, "cos": Cosine, "l2": L2, "squared_l2": SquaredL2}
