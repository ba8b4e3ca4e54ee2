"""A file's SHA-256, computed while it is written."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

WRITES_BEHIND = 8
"""Writes by which the checksum may lag behind the file."""


class ChecksumWriter:
    """Passes what is written on to `file` and keeps its SHA-256, computed in a thread of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "checksum")
        self._behind: deque[Future[None]] = deque()
        self.closed = False

    def write(self, data: Any) -> int:
        held = bytes(data)  # itself if it is bytes; else the caller may write over it
        while len(self._behind) >= WRITES_BEHIND:
            self._behind.popleft().result()
        self._behind.append(self._thread.submit(self._sha256.update, held))
        return self._file.write(held)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def hexdigest(self) -> str:
        """Of all that was written; nothing is written after it."""
        self._thread.shutdown()
        return self._sha256.hexdigest()
