"""Batches of a data set: its steps, with negatives that depend only on the step's address."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from twhin_core.config import Config, TrainData
from twhin_core.data.epochs import EdgeReader, EpochReader, InProcess, State, Step
from twhin_core.data.files import EdgeFiles
from twhin_core.data.frequencies import Frequencies
from twhin_core.data.negative_lists import NegativeLists
from twhin_core.data.prefetch import Ahead
from twhin_core.data.windows import Windows
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError
from twhin_core.model.batch import Batch
from twhin_core.model.batch_maker import BatchMaker
from twhin_core.model.device_batch import DeviceBatchMaker, LaidOutEdges
from twhin_core.schema import Schema
from twhin_core.training.device_source import OnDevice, reading_threads
from twhin_core.training.plan import is_local

PreparedBatch = Batch | LaidOutEdges
"""A batch made on the CPU, or the edges that a batch is made of on a GPU; `to` returns the batch on the device."""

# One torch thread to make batches: more would compete with the step for cores.
_ONE_THREAD = partial(torch.set_num_threads, 1)


class Batches:
    """One rank's batches. An address always gives the same batch, so a resumed run continues as if uninterrupted."""

    def __init__(
        self,
        config: Config,
        schema: Schema,
        files: EdgeFiles,
        data: TrainData,
        ranks: Ranks,
        frequencies: Frequencies | None = None,
        source: EdgeReader | None = None,
        explicit: NegativeLists | None = None,
    ) -> None:
        """
        Args:
            frequencies: of the training edges; needed if `data.needs_frequencies`.
            source: reads the edges of `files`; None reads them in this process.
            explicit: the explicit negatives of the edges' queries; None without any.
        """
        self._data, self._ranks, self._source = data, ranks, source
        self._seed = config.training.seed
        self._windows = Windows(files, self._seed, data.shuffle_buffer)
        self._maker: BatchMaker | DeviceBatchMaker
        if ranks.device.type == "cpu":
            self._maker = BatchMaker(schema, config.model, data, frequencies, explicit)
        else:
            are_joined = is_local(config, schema, ranks)
            self._maker = DeviceBatchMaker(schema, config.model, data, frequencies, ranks.device, are_joined, explicit)
            if source is None and ranks.world_size == 1 and self._maker.is_uniform:
                self._windows = Windows(files, self._seed, data.shuffle_buffer, held=reading_threads())
                # Its edges are tensors, which pass through the reader like arrays.
                self._source = OnDevice(self._windows, ranks.device)  # type: ignore[assignment]
        if not self.edges_per_epoch:
            section = "validation_data" if data is config.validation_data else "train_data"
            raise UserError(
                f"{section}.remainder: drop leaves nothing of {len(files)} edges, which do not fill a step of "
                f"{ranks.world_size} x {data.per_replica_batch_size}"
            )

    @property
    def edges_per_epoch(self) -> int:
        """The edges of an epoch that are trained on."""
        return self._reader().stop(first=0)

    def steps_left(self, state: State, num_epochs: int) -> int:
        """The number of steps after `state` until `num_epochs` epochs are done."""
        return self._reader(state).steps_left(num_epochs)

    def epochs(self, state: State, num_epochs: int) -> Iterator[tuple[PreparedBatch, State]]:
        """Batches of shuffled epochs from `state` until `num_epochs` are done, each with the state after it."""
        steps = self._reader(state).steps(num_epochs)
        with Ahead(((self._make(step, stream=0), step.after) for step in steps), initializer=_ONE_THREAD) as made:
            yield from made

    def in_order(self) -> Iterator[PreparedBatch]:
        """The batches of one pass in data set order."""
        steps = self._reader().steps_in_order()
        with Ahead((self._make(step, stream=1) for step in steps), initializer=_ONE_THREAD) as made:
            yield from made

    def step_after(self, state: State) -> Step:
        """The step that this rank takes after `state`, from the next epoch if this one has none left."""
        return next(self._reader(state, InProcess(self._windows)).steps(num_epochs=state["epoch"] + 2))

    def _reader(self, state: State | None = None, source: EdgeReader | None = None) -> EpochReader:
        data, ranks = self._data, self._ranks
        reader = EpochReader(
            self._windows, data.per_replica_batch_size, ranks.rank, ranks.world_size, data.remainder,
            source or self._source,
        )  # fmt: skip
        if state is not None:
            reader.load_state_dict(state)
        return reader

    def _make(self, step: Step, stream: int) -> PreparedBatch:
        """`stream` separates the negatives of validation from those of training."""
        epoch = max(step.epoch, 0)
        entropy = np.random.SeedSequence([self._seed, stream, epoch, step.first, self._ranks.rank])
        seed = int(entropy.generate_state(1, np.uint64)[0])
        if isinstance(self._maker, DeviceBatchMaker):
            return self._maker.lay_out(step.edges, step.step_edges, seed)
        return self._maker.make(step.edges, step.step_edges, torch.Generator().manual_seed(seed))
