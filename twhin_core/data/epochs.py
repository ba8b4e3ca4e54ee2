"""The order in which edges are learned from: a shuffled epoch, cut into steps, and each step into ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twhin_core.data.edges import Edges


@dataclass(frozen=True)
class Step:
    """What one rank takes in one step."""

    edges: Edges
    """This rank's; if the step has fewer edges than there are ranks, an edge of weight 0 stands for none."""
    step_edges: int
    """Edges of all ranks together."""
    epoch: int
    first: int
    """Edges of the epoch that earlier steps took."""


class EpochReader:
    """Steps of `batch_size` edges a rank, addressed by (seed, epoch, first edge, rank, world size).

    Which edges make a step depends on `batch_size · world_size` alone: two ranks of B see in every step what one rank
    of 2B sees. Every rank sees the same number of steps; the last one of an epoch may be short.
    """

    def __init__(self, edges: Edges, batch_size: int, rank: int, world_size: int, seed: int) -> None:
        self._edges, self._seed = edges, seed
        self._step_size = batch_size * world_size
        self._rank, self._world_size = rank, world_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._edges) // self._step_size)

    def steps(self, epoch: int, first: int = 0) -> Iterator[Step]:
        """The steps of a shuffled epoch, from its `first` edge on."""
        generator = np.random.default_rng([self._seed, epoch])
        yield from self._steps(generator.permutation(len(self._edges)), epoch, first)

    def steps_in_order(self) -> Iterator[Step]:
        """The steps of one pass in data set order."""
        yield from self._steps(np.arange(len(self._edges)), epoch=0, first=0)

    def _steps(self, order: npt.NDArray[np.int64], epoch: int, first: int) -> Iterator[Step]:
        for start in range(first, len(order), self._step_size):
            rows = order[start : start + self._step_size]
            mine = np.array_split(rows, self._world_size)[self._rank]
            edges = self._edges.take(mine)
            if not len(mine):
                one = self._edges.take(rows[:1])
                edges = Edges(one.lhs, one.rel, one.rhs, np.zeros_like(one.weight))
            yield Step(edges, len(rows), epoch, start)
