"""Reads torch.distributed.checkpoint from local folders and object stores, unpickling nothing but the index.

Computes the checksums of the files that it writes, and compares them with what it reads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch.distributed.checkpoint._fsspec_filesystem import FileSystem, FsspecReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from twhin_core import storage
from twhin_core.checkpoints.blocks import SUFFIX, BlockReader, BlockWriter, Digests, open_blocks, or_gone
from twhin_core.checkpoints.index import IndexUnpickler, load_index


class CheckedFiles(FileSystem):
    """torch's view of the files of a checkpoint, with their checksums."""

    def __init__(self, url: str, digests: Digests) -> None:
        """`digests`: of the files to read."""
        super().__init__()
        self.fs, self._url, self._digests = storage.filesystem(url)[0], url, digests

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        name = os.path.basename(os.fspath(path))
        if mode == "wb":
            with super().create_stream(path, mode) as file:
                writer = BlockWriter(file)
                yield writer
            with storage.open_write(storage.join(self._url, name + SUFFIX)) as beside:
                beside.write(writer.checksums())
        else:
            blocks = or_gone(self._url, lambda: open_blocks(self._url, name, self._digests))
            with super().create_stream(path, mode) as file:
                yield file if blocks is None else BlockReader(file, blocks)


class _Reader(FsspecReader):
    """torch's reader, given an index that `IndexUnpickler` has read."""

    def __init__(self, index: Metadata, url: str, digests: Digests) -> None:
        path, options = location(url)
        super().__init__(path, **options)
        self.fs: Any = CheckedFiles(url, digests)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return replace(self._index, storage_meta=StorageMeta(load_id=self.load_id))


def location(url: str) -> tuple[str, dict[str, Any]]:
    """The path and file system options of `url`, as torch's readers and writers take them."""
    path = url.rstrip("/") if storage.is_remote(url) else storage.filesystem(url)[1]
    return path, storage.options(url)


def make_reader(url: str, digests: Digests) -> FsspecReader:
    """torch's reader of the checkpoint at `url`.

    Raises:
        UserError: the index is damaged or contains a name that does not belong in one.
    """
    # Not in read_metadata, whose errors torch wraps in a traceback per rank.
    index = load_index(url, digests, IndexUnpickler)
    assert isinstance(index, Metadata)
    return _Reader(index, url, digests)
