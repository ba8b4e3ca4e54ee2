"""How two vectors are compared.

A comparator is written on inner products and squared lengths, so that scores of many candidates come out of one
matrix product whatever the comparator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

TINY = 1e-12


class Comparator(ABC):
    """Compares operator(θ_lhs) with θ_rhs."""

    uses_lengths: bool
    """Whether `compare` reads the squared lengths."""

    @abstractmethod
    def compare(self, inner: Tensor, lhs_square: Tensor, rhs_square: Tensor) -> Tensor:
        """Scores from inner products ⟨a, b⟩ and squared lengths |a|², |b|², all of broadcastable shapes."""


class Dot(Comparator):
    """⟨a, b⟩."""

    uses_lengths = False

    def compare(self, inner: Tensor, lhs_square: Tensor, rhs_square: Tensor) -> Tensor:
        return inner


class Cosine(Comparator):
    """⟨a, b⟩ / |a||b|."""

    uses_lengths = True

    def compare(self, inner: Tensor, lhs_square: Tensor, rhs_square: Tensor) -> Tensor:
        return inner * (lhs_square + TINY).rsqrt() * (rhs_square + TINY).rsqrt()


COMPARATORS: dict[str, type[Comparator]] = {"dot": Dot, "cos": Cosine}
