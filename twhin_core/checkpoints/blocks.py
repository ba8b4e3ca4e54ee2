"""Checksums of a checkpoint's files, block by block, so that any range of a file can be checked as it is read.

Beside each file lies `<file>.crc32c`: the file's size as 8 bytes and the CRC-32C of each of its blocks as 4, all little
endian. The marker holds the SHA-256 of that, by the name of the file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from twhin_core import storage
from twhin_core.errors import UserError, damaged, one_line

MARKER = "complete.json"
"""Written last: a folder without it is no checkpoint."""
SUFFIX = ".crc32c"
BLOCK = 64 << 10
"""Bytes of a block. A single row costs as many."""
PIECE = 16 * BLOCK
"""Bytes that are read at once: few enough to be in the processor's cache still when their checksums are computed."""

Digests = Mapping[str, str]
"""The SHA-256 of each file's checksums, by its name in the checkpoint; none for checkpoints of version 0.1."""

Ints = npt.NDArray[np.int64]
Buffer = bytes | memoryview
T = TypeVar("T")


class Blocks:
    """The checksums of a file."""

    def __init__(self, url: str, checksums: bytes) -> None:
        """`checksums`: the content of the `.crc32c` file of the file at `url`."""
        self._url = url
        self.size = int.from_bytes(checksums[:8], "little")
        self._crcs = np.frombuffer(checksums, "<u4", offset=8)

    def around(self, start: Ints, stop: Ints) -> tuple[Ints, Ints]:
        """The smallest ranges of whole blocks that contain the ranges [start, stop)."""
        return start // BLOCK * BLOCK, np.minimum(-(-stop // BLOCK) * BLOCK, self.size)

    def check(self, start: int, content: Buffer) -> None:
        """Raises Damaged if `content`, a range of whole blocks from byte `start` on, differs from what was written."""
        found = np.array(_crcs(content), "<u4")
        differs = found != self._crcs[start // BLOCK :][: len(found)]
        if differs.any():
            at = start + BLOCK * int(differs.argmax())
            raise damaged(self._url, f"the {BLOCK >> 10} KiB from byte {at:,} on do not match their checksum")

    def read(self, file: Any, start: int, out: memoryview) -> None:
        """Fills `out` with whole blocks of `file`, which is at byte `start`, and checks them. Raises as `check`."""
        for at in range(0, len(out), PIECE):
            piece = out[at : at + PIECE]
            if file.readinto(piece) != len(piece):
                raise damaged(self._url, f"ends before byte {start + at + len(piece):,}")
            self.check(start + at, piece)


def open_blocks(folder: str, name: str, digests: Digests) -> Blocks | None:
    """The checksums of the file `name` of the checkpoint at `folder`, or None if they are not known.

    Raises:
        Damaged: they have changed, or the file has another size.
    """
    if name not in digests:
        return None
    url = storage.join(folder, name)
    checksums = storage.read_bytes(url + SUFFIX)
    if digest(checksums) != digests[name]:
        raise damaged(url + SUFFIX, "does not match its checksum")
    blocks, size = Blocks(url, checksums), storage.size(url)
    if size != blocks.size:
        raise damaged(url, f"has {size:,} bytes instead of {blocks.size:,}")
    return blocks


def or_gone(url: str, read: Callable[[], T]) -> T:
    """What `read` returns.

    Raises:
        Damaged: it found no file, although the checkpoint at `url` has its marker.
        UserError: it found no file, because the checkpoint was removed.
    """
    try:
        return read()
    except FileNotFoundError as error:
        if storage.exists(storage.join(url, MARKER)):
            raise damaged(url, f"a file is missing: {error.filename or one_line(error)}") from None
        raise UserError(
            f"{url}: this checkpoint was removed while it was being read; run it again to read the newest"
        ) from None


def checksums(file: IO[bytes]) -> bytes:
    """The content of the `.crc32c` file of a file, which is read."""
    size, crcs = 0, list[int]()
    while content := file.read(PIECE):
        size += len(content)
        crcs += _crcs(content)
    return _packed(size, crcs)


def digest(checksums: bytes) -> str:
    """The marker's entry for a file with these checksums."""
    return hashlib.sha256(checksums).hexdigest()


def _crcs(content: Buffer) -> list[int]:
    """The CRC-32C of each block."""
    view = np.frombuffer(content, np.uint8)  # unlike slices of bytes, those of an array are no copies
    return [google_crc32c.value(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]


def _packed(size: int, crcs: list[int]) -> bytes:
    """The content of a `.crc32c` file."""
    return size.to_bytes(8, "little") + np.array(crcs, "<u4").tobytes()


class BlockWriter(io.RawIOBase):
    """Writes to `file` and computes the checksums of its blocks."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._size, self._crc = 0, 0
        self._crcs: list[int] = []

    def write(self, data: Any) -> int:
        view = np.frombuffer(data, np.uint8)  # unlike a memoryview, it can be passed to `extend` without a copy
        written = 0
        while written < len(view):
            piece = view[written : written + BLOCK - self._size % BLOCK]
            self._crc = google_crc32c.extend(self._crc, piece)
            self._size += len(piece)
            written += len(piece)
            if self._size % BLOCK == 0:
                self._crcs.append(self._crc)
                self._crc = 0
        self._file.write(view)
        return len(view)

    def checksums(self) -> bytes:
        """The content of the `.crc32c` file, once everything is written."""
        rest = [self._crc] if self._size % BLOCK else []
        return _packed(self._size, self._crcs + rest)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def fileno(self) -> int:
        self._file.flush()  # it is asked for to sync the file
        descriptor: int = self._file.fileno()
        return descriptor

    def close(self) -> None:
        self._file.close()
        super().close()


class RangeReader(io.RawIOBase):
    """A file object of `size` bytes to read at any position. A subclass reads from `self._at` on, and moves it on."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at


class BlockReader(RangeReader):
    """Reads `file` and checks each block that it reads. Keeps the last block of which only a part was asked for."""

    def __init__(self, file: Any, blocks: Blocks) -> None:
        super().__init__(blocks.size)
        self._file, self._blocks = file, blocks
        self._start, self._held = 0, memoryview(b"")

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, except at the end of the file."""
        view = memoryview(buffer).cast("B")
        view, done = view[: max(0, self._size - self._at)], 0
        while done < len(view):
            rest = view[done:]
            if self._at % BLOCK == 0 and len(rest) >= BLOCK:
                piece = rest[: len(rest) // BLOCK * BLOCK]
                self._read(self._at, piece)
            else:
                self._hold()
                piece = rest[: self._start + len(self._held) - self._at]
                piece[:] = self._held[self._at - self._start :][: len(piece)]
            done += len(piece)
            self._at += len(piece)
        return done

    def _hold(self) -> None:
        """Reads the block at the current position unless it is held."""
        if not self._start <= self._at < self._start + len(self._held):
            start = self._at // BLOCK * BLOCK
            block = memoryview(bytearray(min(BLOCK, self._size - start)))
            self._read(start, block)
            self._start, self._held = start, block

    def _read(self, start: int, out: memoryview) -> None:
        self._file.seek(start)
        self._blocks.read(self._file, start, out)
