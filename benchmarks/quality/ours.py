"""Our trainer, by a config, paused to be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.graph import Graph, Point, Scores, pause
from twhin_core.config import Config
from twhin_core.data.epochs import State
from twhin_core.data.frequencies import Frequencies
from twhin_core.data.splits import open_split
from twhin_core.distributed.ranks import process_group
from twhin_core.schema import OTHER, Side
from twhin_core.training.batches import Batches
from twhin_core.training.build import TrainableModel, build
from twhin_core.training.frequencies import count_together
from twhin_core.training.schedules import until
from twhin_core.vectors.prior import Prior


def train(
    config: Config, root: str, graph: Graph, every: float, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Point]:
    """Trains as the config says; gives the model every so many epochs. Counting nodes is part of the time."""
    with process_group() as ranks:
        edges = open_split(config, root, graph.schema, "train")
        started = clock()
        frequencies = count_together(edges, graph.schema, ranks) if config.needs_frequencies else None
        batches = Batches(config, graph.schema, edges, config.train_data, ranks, frequencies)
        begin, epochs = State(epoch=0, edges=0), config.training.num_epochs
        last = batches.steps_left(begin, epochs)
        taken = clock() - started
        model = build(until(last, config), graph.schema, ranks, frequencies)
        steps = model.steps(batches.epochs(begin, epochs))
        yield from pause(steps, last / epochs, every, lambda: scores_of(model, graph, frequencies), taken, clock)


def scores_of(model: TrainableModel, graph: Graph, frequencies: Frequencies | None) -> Scores:
    scorer, state, schema = model.model.module.scorer, model.state(), graph.schema
    prior = None if scorer.prior is None or frequencies is None else Prior(scorer, schema, frequencies)

    @torch.no_grad()
    def scores(side: Side, rel: int, node: Tensor) -> Tensor:
        nodes, candidates = (
            state[f"tables.embeddings.{schema.table_of(rel, of)}.weight"] for of in (OTHER[side], side)
        )
        rels = torch.full((1, len(node)), rel)
        found: Tensor = scorer.candidates(side, rels, nodes[node][None], candidates[None])
        if prior is not None:
            found += prior.column(side, rel)(np.arange(len(candidates)))
        return found[0]

    return scores
