"""What a relation does to the vector of its lhs (DESIGN: `score = comparator(operator_r(θ_lhs), θ_rhs)`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Translation(nn.Module):
    """θ_lhs + θ_r (Bordes et al., 2013); starts at zero, as the identity."""

    def __init__(self, num_relations: int, dim: int) -> None:
        super().__init__()
        self.translation = nn.Parameter(torch.zeros(num_relations, dim))

    def forward(self, rel: Tensor, lhs: Tensor) -> Tensor:
        """`lhs` [..., dim] moved by the relations `rel` [...]."""
        return lhs + self.translation[rel]

    def candidate_inner(self, rel: Tensor, candidates: Tensor, rhs: Tensor) -> Tensor:
        """⟨operator_r(c), t⟩ for each query (r, t) and candidate c of its chunk, without a moved copy of c a query.

        `rel` [C, L], `candidates` [C, K, dim], `rhs` [C, L, dim] → [C, L, K]; ⟨c + r, t⟩ = ⟨c, t⟩ + ⟨r, t⟩.
        """
        offset = (self.translation[rel] * rhs).sum(-1, keepdim=True)
        return torch.baddbmm(offset, rhs, candidates.transpose(1, 2))

    def candidate_square(self, rel: Tensor, candidates: Tensor) -> Tensor:
        """|operator_r(c)|² for each query and candidate: |c|² + 2⟨r, c⟩ + |r|². Shapes as above, → [C, L, K]."""
        moved = self.translation[rel]
        squares = candidates.square().sum(-1)[:, None, :] + moved.square().sum(-1)[:, :, None]
        return torch.baddbmm(squares, moved, candidates.transpose(1, 2), alpha=2)


OPERATORS: dict[str, type[Translation]] = {"translation": Translation}
