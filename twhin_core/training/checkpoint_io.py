"""Reads torch.distributed.checkpoint on local folders and gs://, without unpickling more than its own index."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from twhin_core import storage
from twhin_core.errors import UserError

# All that torch's index of a checkpoint is made of. The index is a pickle, and a pickle can name any function.
INDEX_NAMES = {
    *(("torch.distributed.checkpoint.metadata", name) for name in (
        "Metadata", "TensorStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING", "ChunkStorageMetadata",
        "MetadataIndex", "BytesStorageMetadata", "StorageMeta",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *(("torch", name) for name in ("Size", "float32", "float16", "bfloat16", "int64")),
}  # fmt: skip


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if (module, name) not in INDEX_NAMES:
            raise _unknown(f"{module}.{name}")
        return super().find_class(module, name)


def _memory_format(kind: object, name: str) -> _MEM_FORMAT_ENCODING:
    """In the place of `getattr`, by which the first releases of Python 3.11 pickle the member of an enumeration."""
    if kind is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise _unknown(f"getattr({kind}, {name!r})")
    return _MEM_FORMAT_ENCODING[name]


def _unknown(name: str) -> UserError:
    return UserError(f"the checkpoint's index names {name}, which no index contains; it was not read")


class _Reader(FsspecReader):
    """torch's reader, with an unpickler that knows nothing but an index."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        # Here and not in read_metadata, whose errors torch wraps in tracebacks of every rank.
        with self.fs.create_stream(self._get_metadata_path(), "rb") as stream:
            index = _IndexUnpickler(io.BytesIO(stream.read())).load()
        assert isinstance(index, Metadata)
        self._index: Metadata = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return replace(self._index, storage_meta=StorageMeta(load_id=self.load_id))


def location(url: str) -> tuple[str, dict[str, Any]]:
    """`url` and the options of its file system, as torch's readers and writers take them."""
    _, path = storage.filesystem(url)
    return f"gs://{path}" if storage.is_remote(url) else path, storage.options(url)


def make_reader(url: str) -> FsspecReader:
    path, options = location(url)
    return _Reader(path, **options)


def read_part(url: str, name: str, offset: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """A block of the tensor `name` of a checkpoint: float32, of the given shape, from `offset` on.

    Shards are read one at a time, so memory holds the block and one shard, whoever wrote them.
    """
    part = torch.empty(shape)
    dcp.load({}, storage_reader=make_reader(url), planner=_PartPlanner(name, offset, part), no_dist=True)
    return part


class _PartPlanner(LoadPlanner):
    """Plans the reads of one block of one tensor."""

    def __init__(self, name: str, offset: tuple[int, ...], part: Tensor) -> None:
        self._name, self._offset, self._part = name, offset, part

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        assert metadata is not None
        stored = metadata.state_dict_metadata[self._name]
        assert isinstance(stored, TensorStorageMetadata)
        self._stored = stored

    def create_local_plan(self) -> LoadPlan:
        block = ChunkStorageMetadata(torch.Size(self._offset), self._part.shape)
        return LoadPlan(create_read_items_for_chunk_list(self._name, self._stored, [block]))

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise AssertionError("only tensors are read")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        part = self._part
        for axis, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            part = part.narrow(axis, start, length)
        return part

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """The block was filled in place."""
