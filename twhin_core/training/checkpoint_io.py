"""Reads torch.distributed.checkpoint on local folders and gs://, without unpickling more than its own index."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import Any

from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    Metadata,
    StorageMeta,
)

from twhin_core import storage
from twhin_core.errors import UserError

INDEX = ".metadata"

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
    """torch's reader, with an index that was read by an unpickler that knows nothing but an index."""

    def __init__(self, index: Metadata, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return replace(self._index, storage_meta=StorageMeta(load_id=self.load_id))


def location(url: str) -> tuple[str, dict[str, Any]]:
    """`url` and the options of its file system, as torch's readers and writers take them."""
    _, path = storage.filesystem(url)
    return f"gs://{path}" if storage.is_remote(url) else path, storage.options(url)


def read_index(url: str) -> Metadata:
    """The index of the checkpoint at `url`.

    Raises:
        UserError: it names what no index contains.
    """
    with storage.open_read(storage.join(url, INDEX)) as file:
        index = _IndexUnpickler(io.BytesIO(file.read())).load()
    assert isinstance(index, Metadata)
    return index


def make_reader(url: str) -> FsspecReader:
    path, options = location(url)
    # The index is read here and not in read_metadata, whose errors torch wraps in tracebacks of every rank.
    return _Reader(read_index(url), path, **options)
