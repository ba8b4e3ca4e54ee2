"""A prepared graph in memory, and the quality of a model on its held-out edges."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.data.splits import has_split, open_split
from twhin_core.graph.manifest import read_schema
from twhin_core.schema import OTHER, SIDES, Schema, Side

Scores = Callable[[Side, int, Tensor], Tensor]
"""Scores of one relation's queries for a side, whose nodes are int64 [Q], with all nodes of the table: [Q, R]."""

Point = tuple[float, float, Scores]
"""Seconds of training, epochs, and the model then."""

QUERIES_AT_ONCE = 1000


@dataclass(frozen=True)
class Graph:
    schema: Schema
    train: Edges
    test: Edges
    known: Edges
    """The edges of all splits."""

    @staticmethod
    def read(config: Config, root: str) -> Graph:
        schema = read_schema(config, root)
        splits = {
            split: open_split(config, root, schema, split).all()
            for split in ("train", "validation", "test")
            if has_split(config, root, split)
        }
        return Graph(schema, splits["train"], splits["test"], Edges.joined(list(splits.values())))


def pause(
    steps: Iterator[object],
    per_epoch: float,
    every: float,
    scores: Callable[[], Scores],
    taken: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Point]:
    """Takes the steps, whose work is done as they are iterated; gives the model every so many epochs and at the end.

    `taken`: seconds of training before them, by the same clock.
    """
    due, number, measured = every, 0, 0
    started = clock()
    for number, _ in enumerate(steps, start=1):
        if number / per_epoch >= due - 1e-9:
            taken += clock() - started
            yield taken, number / per_epoch, scores()
            due, measured, started = due + every, number, clock()
    if number > measured:
        yield taken + clock() - started, number / per_epoch, scores()


class Queries:
    """The distinct queries of the test edges for one side, and what is known of them."""

    def __init__(self, graph: Graph, side: Side, known: Edges) -> None:
        """`known`: edges whose answers are no candidates, except for the answer that is ranked."""
        nodes = max(graph.schema.tables.values())
        self.side = side
        self.rel, self.node, self.answer = graph.test.rel, _end(graph.test, OTHER[side]), _end(graph.test, side)
        keys = self.rel * nodes + self.node
        self.distinct, self.query = np.unique(keys, return_inverse=True)
        known_keys = known.rel * nodes + _end(known, OTHER[side])
        row = np.searchsorted(self.distinct, known_keys).clip(max=len(self.distinct) - 1)
        is_query = self.distinct[row] == known_keys
        order = np.argsort(row[is_query], kind="stable")
        self.known_row, self.known_answer = row[is_query][order], _end(known, side)[is_query][order]
        self.nodes = nodes

    def recall(self, scores: Scores, top: int) -> float:
        """The mean over queries of the share of their answers among the `top` best candidates that are not known."""
        hits = np.zeros(len(self.distinct))
        for start, stop, edges in self._blocks():
            found, _ = self._scores(scores, start, stop, edges)
            best = torch.zeros_like(found, dtype=torch.bool).scatter_(1, found.topk(top).indices, value=True).numpy()
            np.add.at(hits, self.query[edges], best[self.query[edges] - start, self.answer[edges]])
        return float((hits / np.bincount(self.query)).mean())

    def ranks(self, scores: Scores) -> npt.NDArray[np.float64]:
        """The filtered rank of each test edge's answer, from 1; ties count half."""
        ranks = np.zeros(len(self.query), np.float64)
        for start, stop, edges in self._blocks():
            found, own = self._scores(scores, start, stop, edges)
            rows, answers = torch.from_numpy(self.query[edges] - start), torch.from_numpy(self.answer[edges])
            for part in torch.arange(len(edges)).split(QUERIES_AT_ONCE):
                mine, others = own[part, None], found[rows[part]]
                others[torch.arange(len(part)), answers[part]] = -torch.inf
                ranks[edges[part]] = 1 + (others > mine).sum(1) + 0.5 * (others == mine).sum(1)
        return ranks

    def _scores(self, scores: Scores, start: int, stop: int, edges: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The scores of a block's queries, -inf for known answers, and those of its edges' answers."""
        keys = self.distinct[start:stop]
        found = scores(self.side, int(keys[0] // self.nodes), torch.from_numpy(keys % self.nodes))
        own = found[torch.from_numpy(self.query[edges] - start), torch.from_numpy(self.answer[edges])]
        first, last = np.searchsorted(self.known_row, [start, stop])
        row, answer = self.known_row[first:last] - start, self.known_answer[first:last]
        found[torch.from_numpy(row), torch.from_numpy(answer)] = -torch.inf
        return found, own

    def _blocks(self) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
        """Bounds of blocks of queries, each of one relation, and the test edges that belong to them."""
        begin = np.searchsorted(self.distinct, np.arange(self.distinct[-1] // self.nodes + 2) * self.nodes)
        bounds = sorted({*begin.tolist(), *range(0, len(self.distinct), QUERIES_AT_ONCE)})
        by_query = np.argsort(self.query, kind="stable")
        ends = np.searchsorted(self.query[by_query], bounds).tolist()
        for (start, stop), (first, last) in zip(itertools.pairwise(bounds), itertools.pairwise(ends), strict=True):
            yield start, stop, by_query[first:last]


def _end(edges: Edges, side: Side) -> npt.NDArray[np.int64]:
    return edges.lhs if side == "lhs" else edges.rhs


def measure(graph: Graph, metric: str) -> Callable[[Scores], float]:
    """`recall@K`, over all users with test edges and without the training edges of each; or the filtered `mrr`."""
    if metric == "mrr":
        sides = [Queries(graph, side, graph.known) for side in SIDES]
        return lambda scores: float(np.concatenate([1 / side.ranks(scores) for side in sides]).mean())
    top, queries = int(metric.removeprefix("recall@")), Queries(graph, "rhs", graph.train)
    return lambda scores: queries.recall(scores, top)
