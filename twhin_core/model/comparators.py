"""How operator(θ_lhs) and θ_rhs are compared: by the inner product of what `prepare` makes of each."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor


class Comparator(ABC):
    """A score is ⟨prepare(a), prepare(b)⟩, so that all scores of a chunk are one matrix product."""

    commutes_with_operators: bool
    """Whether an operator on one vector can be moved over to the other one."""

    @abstractmethod
    def prepare(self, vectors: Tensor) -> Tensor:
        """[..., dim] → [..., dim]."""


class Dot(Comparator):
    """⟨a, b⟩."""

    commutes_with_operators = True

    def prepare(self, vectors: Tensor) -> Tensor:
        return vectors


class Cosine(Comparator):
    """⟨a, b⟩ / |a||b|."""

    commutes_with_operators = False

    def prepare(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


COMPARATORS: dict[str, type[Comparator]] = {"dot": Dot, "cos": Cosine}
