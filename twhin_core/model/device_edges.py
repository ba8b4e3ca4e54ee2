"""A step's edges as tensors, which may still be on their way to the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class DeviceEdges:
    """Edges as tensors: `lhs`, `rel` and `rhs` int64 [E], `weight` float32 [E]."""

    lhs: Tensor
    rel: Tensor
    rhs: Tensor
    weight: Tensor
    ready: torch.cuda.Event | None = None
    """When another stream will have written them."""

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.lhs, self.rel, self.rhs, self.weight

    def __len__(self) -> int:
        return len(self.lhs)

    def take(self, rows: slice) -> DeviceEdges:
        """Views of the same tensors."""
        return replace(self.each(lambda column: column[rows]), ready=self.ready)

    def each(self, function: Callable[[Tensor], Tensor]) -> DeviceEdges:
        """`function` of each column."""
        return DeviceEdges(function(self.lhs), function(self.rel), function(self.rhs), function(self.weight))

    @staticmethod
    def joined(parts: list[DeviceEdges]) -> DeviceEdges:
        """The edges of all parts, one after the other; of a single part, the same tensors."""
        if len(parts) == 1:
            return parts[0]
        for part in parts:
            part.wait()
        lhs, rel, rhs, weight = (torch.cat(column) for column in zip(*(part.columns for part in parts), strict=True))
        return DeviceEdges(lhs, rel, rhs, weight)

    def wait(self) -> None:
        """Lets the current stream use them; the host goes on."""
        if self.ready is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.ready)
            for column in self.columns:
                column.record_stream(stream)

    def to(self, device: torch.device) -> DeviceEdges:
        """On `device`, for the current stream; a copy does not make the host wait."""
        self.wait()
        return self.each(lambda column: column.to(device, non_blocking=True))
