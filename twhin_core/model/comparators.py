"""How operator(θ_lhs) and θ_rhs are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor


class Comparator(ABC):
    """Scores pairs of vectors."""

    @abstractmethod
    def one_to_one(self, left: Tensor, right: Tensor) -> Tensor:
        """[..., dim] and [..., dim] → [...]."""

    @abstractmethod
    def all_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """[C, L, dim] and [C, K, dim] → [C, L, K], by one batched matrix product."""


class Dot(Comparator):
    """⟨a, b⟩."""

    def one_to_one(self, left: Tensor, right: Tensor) -> Tensor:
        return (left * right).sum(-1)

    def all_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.bmm(left, right.transpose(1, 2))


class Cosine(Dot):
    """⟨a, b⟩ / |a||b|."""

    def one_to_one(self, left: Tensor, right: Tensor) -> Tensor:
        return super().one_to_one(F.normalize(left, dim=-1), F.normalize(right, dim=-1))

    def all_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        return super().all_pairs(F.normalize(left, dim=-1), F.normalize(right, dim=-1))


COMPARATORS: dict[str, type[Comparator]] = {"dot": Dot, "cos": Cosine}
