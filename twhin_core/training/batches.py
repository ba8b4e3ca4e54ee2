"""Batches of a data set: its steps, with negatives that depend on the step's address alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from twhin_core.config import Config, TrainData
from twhin_core.data.edges import Edges
from twhin_core.data.epochs import EpochReader, Step
from twhin_core.data.frequencies import Frequencies
from twhin_core.data.prefetch import one_ahead
from twhin_core.graph.manifest import Schema
from twhin_core.model.batch import Batch, BatchMaker
from twhin_core.training.ranks import Ranks


class Batches:
    """One rank's batches, on the CPU. The same address gives the same: a resumed run goes on as if undisturbed."""

    def __init__(
        self,
        config: Config,
        schema: Schema,
        edges: Edges,
        data: TrainData,
        ranks: Ranks,
        ends: Frequencies | None = None,
    ) -> None:
        """`ends`: of the training edges, where `data.needs_frequencies`."""
        self._seed, self._ranks = config.training.seed, ranks
        self._reader = EpochReader(edges, data.per_replica_batch_size, ranks.rank, ranks.world_size, self._seed)
        self._maker = BatchMaker(schema, config.model, data, ends)

    def epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, int]]:
        """Batches of a shuffled epoch from its `first` edge on, each with the edges that the epoch has then taken."""
        steps = self._reader.steps(epoch, first)
        yield from one_ahead((self._make(step, stream=0), step.first + step.step_edges) for step in steps)

    def in_order(self) -> Iterator[Batch]:
        """Batches of one pass in data set order."""
        yield from one_ahead(self._make(step, stream=1) for step in self._reader.steps_in_order())

    def _make(self, step: Step, stream: int) -> Batch:
        """`stream` keeps the negatives of validation apart from those of training."""
        entropy = np.random.SeedSequence([self._seed, stream, step.epoch, step.first, self._ranks.rank])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        return self._maker.make(step.edges, step.step_edges, generator)
