"""Steps replayed as CUDA graphs: one launch instead of a hundred, so that the host no longer limits a fast step.

A graph repeats the same kernels on the same memory. It fits steps whose shapes do not depend on their edges (those of
`LaidOutEdges.is_uniform`) and in which the host neither waits for the device nor copies anything to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from twhin_core.model.batch import Batch
from twhin_core.model.device_batch import LaidOutEdges
from twhin_core.model.device_edges import DeviceEdges

STEPS_BEFORE = 3
"""Steps taken normally first, in which kernels are compiled and libraries make their workspaces."""


@dataclass(frozen=True)
class _Graph:
    """A recorded step."""

    graph: torch.cuda.CUDAGraph
    edges: DeviceEdges
    """What it reads."""
    loss: Tensor
    """What it writes."""
    gradients: list[Tensor | None]
    """Of the parameters, likewise."""


class CapturedStep:
    """Takes steps as graphs: one for the most frequent number of edges, from the fourth such step on."""

    def __init__(self, train: Callable[[Batch], Tensor], parameters: list[nn.Parameter]) -> None:
        """`train` does what of a step can be recorded, and returns the loss."""
        self._train, self._parameters = train, parameters
        self._graph: _Graph | None = None
        self._seen: list[int] = []

    def __call__(self, batch: LaidOutEdges) -> Tensor | None:
        """Takes the step and returns its loss; None if it must be taken in the normal way."""
        count = len(batch.edges)
        if self._graph is None:
            self._seen.append(count)
            if len(self._seen) <= STEPS_BEFORE or self._seen[-STEPS_BEFORE:] != [count] * STEPS_BEFORE:
                return None
            self._graph = self._record(batch)
        graph = self._graph
        if count != len(graph.edges):
            return None
        batch.edges.wait()
        for target, source in zip(graph.edges.columns, batch.edges.columns, strict=True):
            target.copy_(source, non_blocking=True)
        batch.maker.seed(batch.seed)
        graph.graph.replay()
        for parameter, gradient in zip(self._parameters, graph.gradients, strict=True):
            parameter.grad = gradient
        return graph.loss.clone()

    def _record(self, batch: LaidOutEdges) -> _Graph:
        """Records the step without taking it."""
        device = batch.maker.device
        edges = batch.edges.each(lambda column: torch.empty_like(column, device=device))
        for parameter in self._parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(batch.maker.generator)
        # Other threads go on copying edges to the device.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = self._train(batch.maker.make(replace(batch, edges=edges), device))
        return _Graph(graph, edges, loss, [parameter.grad for parameter in self._parameters])
