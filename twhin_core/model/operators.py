"""What a relation does to the vector of its lhs (`score = comparator(operator_rel(θ_lhs), θ_rhs)`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Translation(nn.Module):
    """θ_lhs + θ_rel (Bordes et al., 2013); starts at zero, as the identity."""

    def __init__(self, num_relations: int, dim: int) -> None:
        super().__init__()
        self.translation = nn.Parameter(torch.zeros(num_relations, dim))

    def forward(self, rel: Tensor, lhs: Tensor) -> Tensor:
        """Vectors `lhs` [..., dim], each moved by its relation of `rel` [...]."""
        return lhs + self._of(rel)

    def offset(self, rel: Tensor, rhs: Tensor) -> Tensor:
        """⟨operator_rel(c), rhs⟩ - ⟨c, rhs⟩, the same for every candidate c: [...] and [..., dim] → [...]."""
        return (self._of(rel) * rhs).sum(-1)

    def _of(self, rel: Tensor) -> Tensor:
        if len(self.translation) == 1:
            return self.translation.expand(*rel.shape, -1)
        # index_select, because the backward pass of plain indexing is several times slower on a CPU.
        return self.translation.index_select(0, rel.flatten()).view(*rel.shape, -1)
