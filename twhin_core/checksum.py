"""The SHA-256 of a file, computed while it is written."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

MAX_LAG = 8
"""The number of writes by which the checksum may lag behind the file."""


class ChecksumWriter(io.RawIOBase):
    """Writes to `file` and computes the SHA-256 of the content in a separate thread. Closing it leaves `file` open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "checksum")
        self._pending: deque[Future[None]] = deque()

    def write(self, data: Any) -> int:
        content = bytes(data)  # a copy unless it is bytes already: the caller may reuse its buffer
        while len(self._pending) >= MAX_LAG:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._sha256.update, content))
        return self._file.write(content)

    def writable(self) -> bool:
        return True

    def hexdigest(self) -> str:
        """The checksum of everything written. Nothing may be written afterwards."""
        self._thread.shutdown()
        return self._sha256.hexdigest()
