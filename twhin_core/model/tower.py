"""What content adds to vectors, W·x + Σ rows of categories, without torchrec, which readers of vectors do not need."""

from __future__ import annotations

from torch import Tensor, nn

from twhin_core.schema import ContentShape


class Tower(nn.Module):
    """What content adds to the vectors of a table."""

    def __init__(self, shape: ContentShape, dim: int) -> None:
        """Starts at zero, where content changes nothing."""
        super().__init__()
        self._shape = shape
        self.vector = nn.Linear(shape.dim, dim, bias=False) if shape.dim else None
        self.values = nn.Embedding(shape.values + 1, dim, padding_idx=0) if shape.categories else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, content: Tensor) -> Tensor:
        """Content [n, at least shape.width]: a vector, then the numbers of categories → [n, dim]."""
        parts = []
        if self.vector is not None:
            parts.append(self.vector(content[:, : self._shape.dim]))
        if self.values is not None:
            parts.append(self.values(content[:, self._shape.dim : self._shape.width].long()).sum(1))
        total: Tensor = sum(parts[1:], parts[0])
        return total
