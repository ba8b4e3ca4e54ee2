"""The plain loop of `benchmarks.plain_loop`, paused to be measured."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.plain_loop import Bipartite, PlainLoop
from benchmarks.quality.graph import Graph, Point, Scores, pause
from twhin_core.schema import Side


def train(graph: Graph, dim: int, epochs: int, every: float) -> Iterator[Point]:
    """Trains with batches of 1,000 and 50 + 50 negatives per side, at the rate .1: the best of its settings."""
    lhs, rhs = (torch.from_numpy(ends) for ends in (graph.train.lhs, graph.train.rhs))
    sizes = [graph.schema.tables[graph.schema.table_of(0, side)] for side in ("lhs", "rhs")]
    loop = PlainLoop(Bipartite(lhs, rhs, *sizes), dim, chunk=50, uniform=50)
    per_epoch = len(lhs) // loop.batch

    def steps() -> Iterator[float]:
        for _ in range(epochs):
            order = torch.randperm(len(lhs))
            for start in range(0, per_epoch * loop.batch, loop.batch):
                yield loop.step(order[start : start + loop.batch])

    yield from pause(steps(), per_epoch, every, lambda: scores_of(loop))


def scores_of(loop: PlainLoop) -> Scores:
    users, items = loop.vectors()

    def scores(side: Side, _: int, node: Tensor) -> Tensor:
        return users[node] @ items.T if side == "rhs" else items[node] @ users.T

    return scores
