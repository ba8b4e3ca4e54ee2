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
    """-|a - b|² = ⟨(2a, -|a|², -1), (b, 1, |b|²)⟩.

    Near points cancel in this sum, so under autocast it must not lose digits that its terms have. The points
    themselves are rounded to the lower precision, for every score alike, and each |·|² is divided into terms of that
    precision that add up to its float32 value. The products then have the exact distances of the rounded points.
    """

    def query(self, vectors: Tensor) -> Tensor:
        points = self.point(vectors)
        squares = _terms(points.square().sum(-1, keepdim=True))
        return torch.cat([2 * points, -squares, -torch.ones_like(squares)], -1)

    def answer(self, vectors: Tensor) -> Tensor:
        points = self.point(vectors)
        squares = _terms(points.square().sum(-1, keepdim=True))
        return torch.cat([points, torch.ones_like(squares), squares], -1)

    def point(self, vectors: Tensor) -> Tensor:
        dtype = _autocast_dtype(vectors)
        return vectors if dtype is None else _rounded(vectors, dtype)

    def pairs(self, points: Tensor, others: Tensor) -> Tensor:
        return self.finish(-(points - others).square().sum(-1))


class L2(SquaredL2):
    """-|a - b|."""

    def finish(self, products: Tensor) -> Tensor:
        # Rounding can make a small distance negative, and the root has no derivative at 0.
        return -(-products).clamp(min=1e-12).sqrt()


def _autocast_dtype(vectors: Tensor) -> torch.dtype | None:
    device = vectors.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _rounded(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest values of `dtype`, in float32. The gradient passes as if they were the values themselves."""
    with torch.no_grad():
        lost = vectors.to(dtype).to(vectors.dtype) - vectors
    return vectors + lost  # exact: a value and its rounding differ in their last digits only


def _terms(value: Tensor) -> Tensor:
    """float32 [..., 1] → [..., n] that sum up to it, each exact in autocast's dtype; [..., 1] without autocast."""
    dtype = _autocast_dtype(value)
    if dtype is None:
        return value
    first = _rounded(value, dtype)
    with torch.no_grad():
        second = (value - first).to(dtype).to(value.dtype)
        third = value - first - second
    return torch.cat([first, second, third], -1)


COMPARATORS: dict[str, type[Comparator]] = {"dot": Dot, "cos": Cosine, "l2": L2, "squared_l2": SquaredL2}
