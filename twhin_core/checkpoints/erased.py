"""Copies a checkpoint with zeros in place of some rows, of which only the affected bytes are computed anew.

A file of a checkpoint is a sequence of torch.save archives (see `stored_tensor`), which hold the CRC-32 of values.
So rows that become zero change their own bytes, and the CRC-32 before, after and at the end of the values.
"""

from __future__ import annotations

import heapq
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from twhin_core import storage
from twhin_core.checkpoints.blocks import (
    MARKER,
    PIECE,
    SUFFIX,
    BlockReader,
    BlockWriter,
    checksums,
    digest,
    open_blocks,
)
from twhin_core.checkpoints.checkpoint import FOLDER, OPTIMIZER, Checkpoint
from twhin_core.checkpoints.index import INDEX, StoredPart, StoredShape, read_index
from twhin_core.checkpoints.stored_tensor import Ints, View
from twhin_core.graph.copies import copy_file

HAS_DESCRIPTOR = 8
"""The flag of an archive's entry whose CRC-32 also follows its values."""
Patch = tuple[int, bytes]
"""Where a file changes, and what it holds there then."""


def copy_erased(of: Checkpoint, root: str, rows: Mapping[str, Ints]) -> None:
    """Writes the checkpoint under another run root, with zeros in `rows` of tables and of their optimizers' state.

    All other bytes of values stay the same. Memory is bounded by a block, and a few bytes for each of `rows`.

    Args:
        rows: by table, ascending.

    Raises:
        UserError: the checkpoint is damaged.
    """
    to = storage.join(root, FOLDER, str(of.step))
    storage.remove(storage.join(to, MARKER))
    index = read_index(of.url, of.marker.files)
    names = {part.path for shape in index.values() for part in shape.parts}
    erased: dict[str, list[_Erased]] = {}
    for table, gone in rows.items():
        for shape in _of_table(index, table):
            for part in shape.parts:
                if len(inside := _inside(part, gone)):
                    erased.setdefault(part.path, []).append(_Erased(part, np.dtype(shape.dtype), inside))
    files = {INDEX: digest(checksums(io.BytesIO(storage.read_bytes(storage.join(of.url, INDEX)))))}
    copy_file(storage.join(of.url, INDEX), storage.join(to, INDEX))
    for name in sorted(names):
        files[name] = digest(_copy(of, to, name, erased.get(name, [])))
    marker = of.marker.model_copy(update={"files": files})
    storage.publish_json(storage.join(to, MARKER), marker.model_dump())


@dataclass(frozen=True)
class _Erased:
    """Rows of a part of a tensor, counted within the part."""

    part: StoredPart
    dtype: np.dtype[Any]
    rows: Ints

    @property
    def row_bytes(self) -> int:
        return math.prod(self.part.sizes[1:]) * self.dtype.itemsize


def _of_table(index: Mapping[str, StoredShape], table: str) -> list[StoredShape]:
    """The vectors of a table, and the state of its optimizer that has a value for each row."""
    weight = f"tables.embeddings.{table}.weight"
    size = index[weight].size[0]
    return [
        shape
        for name, shape in index.items()
        if (name == weight or name.startswith(f"{OPTIMIZER}{weight}.")) and shape.size[:1] == (size,)
    ]


def _inside(part: StoredPart, rows: Ints) -> Ints:
    first = part.offsets[0]
    return rows[slice(*np.searchsorted(rows, [first, first + part.sizes[0]]))] - first


def _copy(of: Checkpoint, to: str, name: str, erased: list[_Erased]) -> bytes:
    """Copies a file. Returns its checksums, which it also writes."""
    source, target = storage.join(of.url, name), storage.join(to, name)
    blocks = open_blocks(of.url, name, of.marker.files)
    with storage.open_read(source) as raw:
        file: Any = raw if blocks is None else BlockReader(raw, blocks)
        patches = [_patches(file, each) for each in sorted(erased, key=lambda each: each.part.start)]
        file.seek(0)
        with storage.open_write(target) as out:
            writer = BlockWriter(out)
            for content in _patched(iter(lambda: file.read(PIECE), b""), heapq.merge(*patches)):
                writer.write(content)
            found = writer.checksums()
    with storage.open_write(target + SUFFIX) as beside:
        beside.write(found)
    return found


def _patches(file: Any, erased: _Erased) -> list[Patch]:
    """What changes in the archive of a part, in the order of the file."""
    part = erased.part
    view = View(file, part.start, part.length)
    with zipfile.ZipFile(view) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
        directory = archive.start_dir
    header = _read(view, entry.header_offset, 30)
    flags, (name, extra) = struct.unpack_from("<H", header, 6)[0], struct.unpack_from("<HH", header, 26)
    start = entry.header_offset + 30 + name + extra
    width = erased.row_bytes
    rows: list[Patch] = [(start + int(row) * width, bytes(width)) for row in erased.rows]
    crc = 0
    view.seek(start)
    for content in _patched(_pieces(view, entry.file_size), iter(rows), start):
        crc = zlib.crc32(content, crc)
    found = struct.pack("<I", crc)
    if flags & HAS_DESCRIPTOR:
        end = start + entry.compress_size
        is_signed = _read(view, end, 4) == b"PK\x07\x08"
        rows.append((end + 4 * is_signed, found))
    if _read(view, entry.header_offset + 14, 4) != bytes(4):
        rows.insert(0, (entry.header_offset + 14, found))
    rows.append((_place_in_directory(view, directory, entry.filename) + 16, found))
    return [(part.start + at, content) for at, content in rows]


def _place_in_directory(view: View, at: int, wanted: str) -> int:
    """Where the entry of a file starts in an archive's directory, which starts at `at`."""
    while True:
        record = _read(view, at, 46)
        assert record[:4] == b"PK\x01\x02", at
        name, extra, comment = struct.unpack_from("<HHH", record, 28)
        if _read(view, at + 46, name).decode() == wanted:
            return at
        at += 46 + name + extra + comment


def _read(view: View, at: int, count: int) -> bytes:
    view.seek(at)
    return view.read(count)


def _pieces(file: IO[bytes] | View, size: int) -> Iterator[bytes]:
    while size > 0:
        content = file.read(min(PIECE, size))
        assert content
        size -= len(content)
        yield content


def _patched(pieces: Iterator[bytes], patches: Iterator[Patch], at: int = 0) -> Iterator[bytes]:
    """The content of `pieces`, the first of which is at byte `at`, with the ascending `patches` applied."""
    patch = next(patches, None)
    for content in pieces:
        end = at + len(content)
        if patch is None or patch[0] >= end:
            yield content
        else:
            changed = bytearray(content)
            while patch is not None and patch[0] < end:
                start, new = patch
                inside = new[: end - start]
                changed[start - at : start - at + len(inside)] = inside
                rest = new[len(inside) :]
                patch = (end, rest) if rest else next(patches, None)
            yield bytes(changed)
        at = end
