"""Checksums of files, computed while they are written and compared when they are read."""

from __future__ import annotations

import hashlib
import io
import json
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

import google_crc32c

from twhin_core.errors import Damaged, damaged
from twhin_core.progress import log
from twhin_core.sizes import count_of

MAX_LAG = 8
"""The number of writes by which the checksum may lag behind the file."""

SEAL = "crc32c"
"""The last key of a JSON file: the checksum of everything before it."""


def crc32c(parts: Iterable[bytes]) -> str:
    """The CRC-32C of the concatenation of `parts`, as 8 hexadecimal digits."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return f"{crc:08x}"


def sha256(parts: Iterable[bytes]) -> str:
    """The SHA-256 of the concatenation of `parts`, as 64 hexadecimal digits."""
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return checksum.hexdigest()


def seal(value: Any) -> Any:
    """A value to be written as JSON: with its checksum as the last key if it is a dict, each of its items if a list."""
    if isinstance(value, list):
        return [seal(item) for item in value]
    return {**value, SEAL: _of_json(value)} if isinstance(value, dict) else value


def unseal(value: Any, url: str) -> Any:
    """What `seal` was given. Raises Damaged if it has changed. A value without a checksum is returned as it is."""
    if isinstance(value, list):
        return [unseal(item, url) for item in value]
    if not isinstance(value, dict) or SEAL not in value:
        return value
    stated = value.pop(SEAL)
    if stated != _of_json(value):
        raise damaged(url, "its content does not match its checksum")
    return value


def seal_line(value: dict[str, Any]) -> str:
    """A line of a JSONL file, without its end."""
    return json.dumps(seal(value))


def unseal_lines(content: bytes, url: str) -> list[dict[str, Any]]:
    """The values of all lines that are whole. Logs a warning that names the first of the others."""
    found, broken = [], []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            found.append(unseal(json.loads(line), url))
        except (ValueError, Damaged):
            broken.append(number)
    if broken:
        log.warning("%s: left out %s as damaged, the first at line %d", url, count_of(len(broken), "line"), broken[0])
    return [line for line in found if isinstance(line, dict)]


def _of_json(value: dict[str, Any]) -> str:
    return crc32c([json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")])


class ChecksumWriter(io.RawIOBase):
    """Writes to `file` and computes checksums of the content in a separate thread. Closing it leaves `file` open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._crc32c = 0
        self._thread = ThreadPoolExecutor(1, "checksum")
        self._pending: deque[Future[None]] = deque()
        self._kept: list[bytes] | None = None
        self.size = 0
        """Bytes written."""

    def write(self, data: Any) -> int:
        content = bytes(data)  # a copy unless it is bytes already: the caller may reuse its buffer
        while len(self._pending) >= MAX_LAG:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._update, content))
        self.size += len(content)
        if self._kept is not None:
            self._kept.append(content)
        return self._file.write(content)

    def _update(self, content: bytes) -> None:
        self._sha256.update(content)
        self._crc32c = google_crc32c.extend(self._crc32c, content)

    def writable(self) -> bool:
        return True

    def keep(self) -> list[bytes]:
        """The list that will hold everything written from now on."""
        self._kept = []
        return self._kept

    def checksums(self) -> dict[str, Any]:
        """The fields `size`, `sha256` and `crc32c` of a `FileEntry`. Nothing may be written afterwards."""
        self._thread.shutdown()
        return {"size": self.size, "sha256": self._sha256.hexdigest(), "crc32c": f"{self._crc32c:08x}"}
