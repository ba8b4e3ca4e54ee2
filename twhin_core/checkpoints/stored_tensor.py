"""Reads arbitrary rows of a checkpoint's tensor, from disk or an object store, without reading the rest.

torch.distributed.checkpoint stores each shard as a torch.save zip file, which contains the values uncompressed and in
row-major order; torch itself can only load complete shards.
"""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core import storage
from twhin_core.checkpoints.blocks import BlockReader, Blocks, Digests, RangeReader, open_blocks, or_gone
from twhin_core.checkpoints.index import StoredPart, StoredShape, read_index

Ints = npt.NDArray[np.int64]

PIECE_BYTES = 16 << 20
"""The maximum size of a request."""
GAP_BYTES = 64 << 10
"""Rows with smaller gaps between them are read in one range, gaps included."""


@dataclass(frozen=True)
class _Shard:
    """A part of a tensor, stored in a file from byte `start` on."""

    path: str
    start: int
    first_row: int
    rows: int
    columns: slice
    blocks: Blocks | None


class StoredTensor:
    """A stored tensor as rows [size, dim], with all further dimensions flattened. Needs no process group.

    Returns floating-point values as float32, whatever the stored dtype. Needs memory for the result and one piece of
    `PIECE_BYTES`.
    """

    def __init__(
        self, url: str, name: str, digests: Digests | None = None, index: Mapping[str, StoredShape] | None = None
    ) -> None:
        """
        Args:
            url: the checkpoint.
            digests: of its files, from its marker. What is read from a file without one is not checked.
            index: what `read_index` returned for it. Default: it is read.

        Raises:
            UserError: the checkpoint has been removed or is damaged, or its index contains a name that does not belong
                in one.
        """
        self._url, (self._fs, folder) = url, storage.filesystem(url)
        self._digests = digests or {}
        stored = (or_gone(url, lambda: read_index(url, self._digests)) if index is None else index)[name]
        self.shape = stored.size
        self.size = self.shape[0] if self.shape else 1
        self.dim = math.prod(self.shape[1:])
        self._dtype = np.dtype(stored.dtype)
        self.dtype = torch.float32 if self._dtype.kind == "f" else torch.int64
        # The parameters of the identity have no values.
        self._shards = [self._shard(part, folder) for part in stored.parts if math.prod(part.sizes)]

    def _shard(self, part: StoredPart, folder: str) -> _Shard:
        path, sizes = f"{folder}/{part.path}", part.sizes
        size = math.prod(sizes) * self._dtype.itemsize
        first_column = part.offsets[1] if len(sizes) == 2 else 0
        blocks = or_gone(self._url, lambda: open_blocks(self._url, part.path, self._digests))
        return _Shard(
            path=path,
            start=or_gone(self._url, lambda: _start_of_values(self._fs, path, part, size, blocks)),
            first_row=part.offsets[0] if sizes else 0,
            rows=sizes[0] if sizes else 1,
            columns=slice(first_column, first_column + math.prod(sizes[1:])),
            blocks=blocks,
        )

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop): [stop - start, dim]."""
        assert 0 <= start <= stop <= self.size
        out = torch.empty(stop - start, self.dim, dtype=self.dtype)
        for shard in self._shards:
            first, last = max(start, shard.first_row), min(stop, shard.first_row + shard.rows)
            step = max(1, PIECE_BYTES // self._row_bytes(shard))
            for piece in range(first, last, step):
                end = min(piece + step, last)
                into = out.numpy()[piece - start : end - start, shard.columns]
                self._read_rows(shard, piece - shard.first_row, end - shard.first_row, into)
        return out

    def read_whole(self) -> Tensor:
        """The complete tensor in its original shape."""
        return self.read(0, self.size).view(self.shape)

    def gather(self, rows: Ints) -> Tensor:
        """The given rows, in any order: int64 [n] → [n, dim]."""
        wanted, inverse = np.unique(rows, return_inverse=True)
        assert not len(wanted) or (wanted[0] >= 0 and wanted[-1] < self.size)
        out = torch.empty(len(wanted), self.dim, dtype=self.dtype)
        for shard in self._shards:
            bounds = np.searchsorted(wanted, [shard.first_row, shard.first_row + shard.rows])
            inside = wanted[slice(*bounds)] - shard.first_row
            for piece in _pieces(inside, self._row_bytes(shard)):
                values = self._read_piece(shard, inside[piece])
                out.numpy()[piece.start + bounds[0] : piece.stop + bounds[0], shard.columns] = values
        return out if np.array_equal(wanted, rows) else out[torch.from_numpy(inverse)]

    def _read_rows(self, shard: _Shard, first: int, last: int, out: npt.NDArray[Any]) -> None:
        """Sets `out` to the rows [first, last) of a shard."""
        if shard.blocks is None or storage.is_remote(self._url):
            out[:] = self._read_runs(shard, np.array([first]), np.array([last]))
            return
        is_same = out.dtype == self._dtype and out.flags.c_contiguous
        values = out if is_same else np.empty(out.shape, self._dtype)
        with or_gone(self._url, lambda: self._fs.open(shard.path, "rb")) as file:
            reader = BlockReader(file, shard.blocks)
            reader.seek(shard.start + first * self._row_bytes(shard))
            reader.readinto(values)
        if not is_same:
            out[:] = values

    def _row_bytes(self, shard: _Shard) -> int:
        return int(shard.columns.stop - shard.columns.start) * self._dtype.itemsize

    def _read_piece(self, shard: _Shard, rows: Ints) -> npt.NDArray[Any]:
        """The given rows of a shard, which must be ascending and distinct."""
        breaks = np.flatnonzero(np.diff(rows) * self._row_bytes(shard) > GAP_BYTES)
        first, last = rows[np.r_[0, breaks + 1]], rows[np.r_[breaks, len(rows) - 1]] + 1
        values = self._read_runs(shard, first, last)
        run = np.searchsorted(first, rows, side="right") - 1
        before = np.r_[0, np.cumsum(last - first)[:-1]]  # rows in earlier runs
        picked: npt.NDArray[Any] = values[before[run] + rows - first[run]]
        return picked

    def _read_runs(self, shard: _Shard, first: Ints, last: Ints) -> npt.NDArray[Any]:
        """The rows of a shard in the runs [first, last), concatenated."""
        starts, ends = (shard.start + at * self._row_bytes(shard) for at in (first, last))
        begins, stops = (starts, ends) if shard.blocks is None else shard.blocks.around(starts, ends)
        paths = [shard.path] * len(first)
        read = or_gone(self._url, lambda: self._fs.cat_ranges(paths, begins.tolist(), stops.tolist(), on_error="raise"))
        if shard.blocks is not None:
            for begin, part in zip(begins.tolist(), read, strict=True):
                shard.blocks.check(begin, part)
        inside = zip(read, (starts - begins).tolist(), (ends - begins).tolist(), strict=True)
        parts = [memoryview(part)[start:end] for part, start, end in inside]
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        return np.frombuffer(content, self._dtype).reshape(-1, shard.columns.stop - shard.columns.start)


def _pieces(rows: Ints, row_bytes: int) -> Iterator[slice]:
    """Slices of the ascending `rows` of about `PIECE_BYTES` each, gaps included."""
    gaps = np.minimum(np.diff(rows, prepend=rows[:1]) * row_bytes, GAP_BYTES) + row_bytes
    piece = np.cumsum(gaps) // PIECE_BYTES
    starts = np.flatnonzero(np.diff(piece, prepend=-1))
    for start, stop in itertools.pairwise([*starts.tolist(), len(rows)]):
        yield slice(start, stop)


def _start_of_values(fs: Any, path: str, part: StoredPart, size: int, blocks: Blocks | None) -> int:
    """The byte offset in a file at which the values of a tensor part start, `size` bytes long."""
    with fs.open(path, "rb") as file:
        view = View(file if blocks is None else BlockReader(file, blocks), part.start, part.length)
        with zipfile.ZipFile(view) as archive:
            entry = next(entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
        assert entry.compress_type == zipfile.ZIP_STORED
        assert entry.file_size == size
        view.seek(entry.header_offset + 26)
        name, extra = np.frombuffer(view.read(4), "<u2").tolist()
    return int(part.start + entry.header_offset + 30 + name + extra)


class View(RangeReader):
    """The bytes [offset, offset + length) of a file, as a file object."""

    def __init__(self, file: IO[bytes] | BlockReader, offset: int, length: int) -> None:
        super().__init__(length)
        self._file, self._offset = file, offset

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._at)
        read = self._file.read(max(0, min(len(buffer), self._size - self._at))) or b""
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)
