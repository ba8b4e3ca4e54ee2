"""Writes checkpoints while training continues: copies the state to main memory, then writes it in a thread.

Where main memory has no room for a copy, training waits until the state itself is written.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.remote_device import _remote_device

from twhin_core import __version__, storage
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.blocks import MARKER, SUFFIX, Digests, checksums, digest
from twhin_core.checkpoints.checkpoint import FOLDER, Marker, Position
from twhin_core.checkpoints.description import ModelDescription
from twhin_core.checkpoints.index import INDEX
from twhin_core.checkpoints.io import CheckedFiles, location
from twhin_core.distributed.parts import local_parts
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import Diverged, UserError, one_line
from twhin_core.progress import log

State = Mapping[str, Tensor | ShardedTensor]


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time; leaving its context waits for the last one.

    Every rank has one and calls the same methods in the same order. The thread's collectives have their own process
    group, so that they never interleave with training's.
    """

    def __init__(self, root: str, model: ModelDescription, keep: int | None, ranks: Ranks, copies: bool = True) -> None:
        """
        Args:
            keep: how many complete checkpoints to keep; older ones are removed after each new one. None keeps all.
            copies: whether to copy what is in main memory already. If not, `save` returns once it is written.
        """
        self._root, self._model, self._keep, self._ranks, self._copies = root, model, keep, ranks, copies
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._running: Future[None] | None = None
        self._step = 0
        self._is_complete = True
        if ranks.is_first:
            checkpoint.remove_incomplete(root)

    def save(self, state: State, position: Position) -> None:
        """Waits for the previous checkpoint, then starts one. `state` may change once this returns."""
        self.wait()
        self._step = position.step
        to_cpu = _copy if self._copies else _in_main_memory
        self._running = self._thread.submit(
            self._write, {name: _map(value, to_cpu) for name, value in state.items()}, position
        )
        if not self._copies:
            futures.wait([self._running])  # `wait` tells how it ended

    def wait(self) -> bool:
        """Waits for the checkpoint being written, if any. Returns whether the last one started is complete.

        A failed checkpoint is logged in one line and removed.

        Raises:
            Diverged: the weights are not finite.
        """
        running, self._running = self._running, None
        if running is not None:
            try:
                running.result()
                self._is_complete = True
            except CheckpointException as failure:
                self._is_complete = False
                reason = next(error for error, _ in failure.failures.values())
                if isinstance(reason, NotFiniteError):
                    raise Diverged(f"step {self._step} made {reason}") from None
                if self._ranks.is_first:
                    log.error("train: the checkpoint of step %d could not be written: %s", self._step, one_line(reason))
        return self._is_complete

    @property
    def is_writing(self) -> bool:
        return self._running is not None and not self._running.done()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
            else:
                with contextlib.suppress(UserError):  # the error that ended the context matters more
                    self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, state: State, position: Position) -> None:
        """In the thread: writes every rank's part, then the marker, then removes older checkpoints."""
        url = storage.join(self._root, FOLDER, str(position.step))

        def publish(files: Digests) -> None:
            marker = Marker(version=__version__, position=position, model=self._model, files=dict(files))
            storage.publish_json(storage.join(url, MARKER), marker.model_dump())

        # Created in the thread that uses it: fsspec keeps one connection per thread.
        writer = _Writer(url, publish)
        try:
            dcp.save(dict(state), storage_writer=writer, planner=_FinitePlanner(), process_group=self._group)
        except CheckpointException:
            if self._ranks.is_first:
                _try_to(lambda: storage.remove(url))
            raise
        if self._ranks.is_first and self._keep is not None:
            for old in checkpoint.complete(self._root)[: -self._keep]:
                _try_to(lambda old=old: checkpoint.remove(old))  # type: ignore[misc] # mypy has no type for `old=old`


class NotFiniteError(ValueError):
    """Weights or optimizer state contain values that are not finite."""


class _Writer(FsspecWriter):
    """torch's writer, which calls `publish` once the parts of all ranks and the index are durable.

    Like any failure of a writer, one of `publish` raises CheckpointException on every rank.
    """

    def __init__(self, url: str, publish: Callable[[Digests], None]) -> None:
        """`publish`: takes the digest of each file."""
        path, options = location(url)
        # Objects are durable once written; for them, torch would sync all local disks.
        super().__init__(path, sync_files=not storage.is_remote(url), **options)
        self.fs: Any = CheckedFiles(url, {})
        self._url, self._publish = url, publish

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Called on the coordinator only. Like torch's own, but writes the index directly under its final name.

        torch moves it there; on an object store, a move is a copy and a removal, and neither can be retried safely.
        """
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {written.index: written.storage_data for part in results for written in part}
        metadata.storage_meta = StorageMeta()  # torch's has a random id, and equal checkpoints have equal checksums
        names = {written.storage_data.relative_path for part in results for written in part}
        files = {name: digest(storage.read_bytes(storage.join(self._url, name + SUFFIX))) for name in sorted(names)}
        index = pickle.dumps(metadata)
        with storage.open_write(storage.join(self._url, INDEX)) as file:
            file.write(index)
        self._publish({INDEX: digest(checksums(io.BytesIO(index))), **files})


class _FinitePlanner(DefaultSavePlanner):
    """Refuses to save values that are not finite."""

    def create_local_plan(self) -> SavePlan:
        for name, value in self.state_dict.items():
            for values in (part.values for part in local_parts(value)):
                # The minimum and maximum suffice, and need no mask as large as the table.
                if values.numel() and not all(bool(end.isfinite()) for end in values.aminmax()):
                    raise NotFiniteError(f"values in {name} that are not finite")
        return super().create_local_plan()


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _in_main_memory(value: Tensor) -> Tensor:
    """The tensor itself if it is in main memory, of which fbgemm's managed memory is a part; else a copy."""
    value = value.detach()
    if value.is_cuda and torch.ops.fbgemm.is_uvm_tensor(value):
        torch.cuda.synchronize()  # the cache has just been written back
        return torch.ops.fbgemm.uvm_to_cpu(value)  # type: ignore[no-any-return]  # fbgemm is untyped
    return value.cpu()


def _map(value: Tensor | ShardedTensor, to_cpu: Callable[[Tensor], Tensor]) -> Tensor | ShardedTensor:
    """The tensor on the CPU; this rank's shards if it is sharded."""
    if not isinstance(value, ShardedTensor):
        return to_cpu(value)
    metadata = copy.deepcopy(value.metadata())
    for entry in metadata.shards_metadata:
        assert entry.placement is not None
        entry.placement = _remote_device(f"rank:{entry.placement.rank()}/cpu")
    metadata_at = {tuple(entry.shard_offsets): entry for entry in metadata.shards_metadata}
    shards = [
        Shard(to_cpu(shard.tensor), metadata_at[tuple(shard.metadata.shard_offsets)]) for shard in value.local_shards()
    ]
    copied: ShardedTensor = ShardedTensor._init_from_local_shards_and_global_metadata(shards, metadata)
    return copied


def _try_to(remove: Callable[[], None]) -> None:
    """Logs a failed removal, which is retried after the next checkpoint or at the next start."""
    try:
        remove()
    except OSError as error:
        log.error("train: an old or broken checkpoint could not be removed: %s", one_line(error))
