"""Steps of a sharded model that overlap communication for the next batch with computation.

    batch i + 2  copied to the device
    batch i + 1  its ids sent to the ranks that hold the rows
    batch i      looked up, scored, trained on

torchrec's TrainPipelineSparseDist does this: on GPUs in separate streams, on CPUs while gloo's threads send.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.streamable import Pipelineable

from twhin_core.model.batch import Batch
from twhin_core.training.batches import PreparedBatch
from twhin_core.training.optimizers import Optimizers

Tag = TypeVar("Tag")


class Pipeline:
    """Trains on batches, taking up to two ahead of the current one."""

    def __init__(
        self, model: DistributedModelParallel, optimizers: Optimizers, loss: Callable[[Batch], tuple[Tensor, Tensor]]
    ) -> None:
        """`loss` returns the value to differentiate and the loss to report."""

        def forward(entry: _Entry[Any]) -> tuple[Tensor, tuple[Tensor, Any]]:
            differentiated, reported = loss(entry.made())
            return differentiated, (reported, entry.tag)

        self._pipeline = TrainPipelineSparseDist(
            _Lookups(model), _StepOf(optimizers), model.device, custom_model_fwd=forward
        )

    def steps(self, batches: Iterator[tuple[PreparedBatch, Tag]]) -> Iterator[tuple[Tensor, Tag]]:
        """Trains on each batch in turn. Yields the reported loss and the batch's tag."""
        entries: Iterator[_Entry[Tag]] = (_Entry(batch, tag) for batch, tag in batches)
        while True:
            try:
                step: tuple[Tensor, Tag] = self._pipeline.progress(entries)
            except StopIteration:
                return
            yield step

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which the model takes batches without the pipeline; batches in flight wait."""
        self._pipeline.detach()
        try:
            yield
        finally:
            self._pipeline.attach(sparse_dist=False)  # ids in flight are not sent again


class _Lookups(nn.Module):
    """What torchrec traces to find the ids that it can send ahead: the tables without the scoring."""

    def __init__(self, model: DistributedModelParallel) -> None:
        super().__init__()
        self.tables = model.module.tables

    def forward(self, entry: _Entry[Any]) -> Any:
        return self.tables(entry.batch.lookups)  # type: ignore[union-attr]  # torchrec traces this line


class _StepOf:
    """The optimizers under the method names that the pipeline calls."""

    def __init__(self, optimizers: Optimizers) -> None:
        self.zero_grad = optimizers.start
        self.step = optimizers.finish


@dataclass(frozen=True)
class _Entry(Pipelineable, Generic[Tag]):  # type: ignore[misc]  # torchrec is untyped
    """A batch in the pipeline."""

    batch: PreparedBatch
    tag: Tag

    def to(self, device: torch.device, non_blocking: bool) -> _Entry[Tag]:
        return _Entry(self.batch.to(device), self.tag)

    def pin_memory(self) -> _Entry[Tag]:
        return self  # `to` pins what it copies

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the batch's memory until `stream` has used it."""
        for value in _tensors(self.made()):
            value.record_stream(stream)

    def made(self) -> Batch:
        """The batch on the device."""
        assert isinstance(self.batch, Batch)
        return self.batch


def _tensors(value: Any) -> Iterator[Tensor | KeyedJaggedTensor]:
    """All tensors in nested dataclasses, lists and dicts."""
    if isinstance(value, Tensor | KeyedJaggedTensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _tensors(entry)
