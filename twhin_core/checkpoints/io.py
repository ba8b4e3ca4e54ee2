"""Reads torch.distributed.checkpoint from local folders and gs://, unpickling nothing but the index."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from twhin_core import storage
from twhin_core.checkpoints.index import INDEX, IndexUnpickler


class _Reader(FsspecReader):
    """torch's reader, given an index that `IndexUnpickler` has read."""

    def __init__(self, index: Metadata, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return replace(self._index, storage_meta=StorageMeta(load_id=self.load_id))


def location(url: str) -> tuple[str, dict[str, Any]]:
    """The path and file system options of `url`, as torch's readers and writers take them."""
    _, path = storage.filesystem(url)
    return f"gs://{path}" if storage.is_remote(url) else path, storage.options(url)


def make_reader(url: str) -> FsspecReader:
    """torch's reader of the checkpoint at `url`.

    Raises:
        UserError: the index contains a name that does not belong in one.
    """
    path, options = location(url)
    # Not in read_metadata, whose errors torch wraps in a traceback per rank.
    with storage.open_read(storage.join(url, INDEX)) as file:
        index = IndexUnpickler(io.BytesIO(file.read())).load()
    assert isinstance(index, Metadata)
    return _Reader(index, path, **options)
