"""PyTorch-BigGraph at the settings of its examples, an epoch at a time; it is no dependency of ours."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import biggraph
from benchmarks.quality.graph import Graph, Point, Scores
from twhin_core.schema import Schema, Side

TRAINED = re.compile(r"Processed \d+ edges in ([\d.]+) s")


def train(graph: Graph, dim: int, epochs: int, negatives: tuple[int, int]) -> Iterator[Point]:
    """Trains with `biggraph.make_config`; the model after each epoch.

    Seconds are those that its own log states for training, without reading and writing.
    """
    from torchbiggraph.config import parse_config
    from torchbiggraph.train import train as train_it

    with tempfile.TemporaryDirectory() as made:
        folder, edges = Path(made), graph.train
        order = np.random.default_rng(0).permutation(len(edges))
        biggraph.write_graph(folder, graph.schema, edges.lhs[order], edges.rel[order], edges.rhs[order])
        seconds, its_log = Seconds(), logging.getLogger("torchbiggraph")
        its_log.handlers, its_log.propagate = [seconds], False
        its_log.setLevel(logging.INFO)
        threads = torch.get_num_threads()
        train_it(parse_config(biggraph.make_config(folder, graph.schema, dim, epochs, threads, negatives)))
        for epoch in range(1, epochs + 1):
            yield sum(seconds.found[:epoch]), float(epoch), scores_of(graph.schema, folder, epoch)


class Seconds(logging.Handler):
    """Collects the seconds of each epoch from the log."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if match := TRAINED.search(record.getMessage()):
            self.found.append(float(match[1]))


def scores_of(schema: Schema, folder: Path, epoch: int) -> Scores:
    tables, shifts = biggraph.read_model(folder, schema, epoch)

    def scores(side: Side, rel: int, node: Tensor) -> Tensor:
        lhs, rhs = (tables[schema.table_of(rel, of)] for of in ("lhs", "rhs"))
        if side == "lhs":
            return (rhs[node] + shifts["rhs"][rel]) @ lhs.T
        if "lhs" in shifts:
            return (lhs[node] + shifts["lhs"][rel]) @ rhs.T
        return lhs[node] @ (rhs + shifts["rhs"][rel]).T

    return scores
