"""Local files and gs:// objects behind one face.

A URL is a local path or `gs://bucket/key`. Every write is atomic: a reader finds the old content or the new, never
a part. What belongs together is published by writing its manifest or marker last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from typing import IO, Any, cast

# gcsfs would ask a storage-control service whether each bucket is hierarchical; emulators do not answer that.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import fsspec
import pyarrow.fs

from twhin_core.errors import UserError


def is_remote(url: str) -> bool:
    """Whether `url` is an object store's. Raises UserError for a scheme other than gs."""
    scheme, separator, _ = url.partition("://")
    if separator and scheme not in ("gs", "file"):
        raise UserError(f"{url}: only local paths and gs:// are supported")
    return scheme == "gs" and bool(separator)


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `url` and the path in it."""
    if is_remote(url):
        # A listing cache would hide what other processes write.
        return fsspec.filesystem("gs", use_listings_cache=False), url.removeprefix("gs://").rstrip("/")
    return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(url.removeprefix("file://")))


def arrow_filesystem(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """As `filesystem`, for pyarrow's readers and writers."""
    fs, path = filesystem(url)
    if is_remote(url):
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path
    return pyarrow.fs.LocalFileSystem(), path


def join(root: str, *parts: str) -> str:
    return "/".join([root.rstrip("/") or "/", *parts])


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def glob(pattern: str) -> list[str]:
    """URLs of the files that match, sorted by name. A folder stands for the files in it; hidden files are left out.

    Raises:
        UserError: nothing matches.
    """
    fs, path = filesystem(pattern)
    if not any(character in path for character in "*?[") and fs.isdir(path):
        path = f"{path}/*"
    found = sorted(name for name, entry in fs.glob(path, detail=True).items() if entry["type"] == "file")
    found = [name for name in found if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not found:
        raise UserError(f"{pattern}: no file matches")
    return [f"gs://{name}" for name in found] if is_remote(pattern) else found


def list_folders(url: str) -> list[str]:
    """Names of the folders directly under `url`; empty if there is no such place."""
    fs, path = filesystem(url)
    if not fs.isdir(path):
        return []
    folders = [entry["name"] for entry in fs.ls(path, detail=True) if entry["type"] == "directory"]
    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in folders)


def remove(url: str) -> None:
    """Removes a file, or a folder and all in it; nothing happens if there is none."""
    fs, path = filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def read_text(url: str) -> str:
    with open_read(url) as file:
        return file.read().decode()


def write_text(url: str, text: str) -> None:
    with open_write(url) as file:
        file.write(text.encode())


def read_json(url: str) -> Any:
    return json.loads(read_text(url))


def write_json(url: str, value: Any) -> None:
    write_text(url, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def open_read(url: str) -> IO[bytes]:
    fs, path = filesystem(url)
    return cast(IO[bytes], fs.open(path, "rb"))


@contextlib.contextmanager
def open_write(url: str) -> Iterator[IO[bytes]]:
    """A file to write; it takes its name when the block ends, and leaves nothing if the block raises."""
    fs, path = filesystem(url)
    if is_remote(url):
        file = fs.open(path, "wb")
        try:
            yield file
        except BaseException:
            file.discard()
            raise
        file.close()  # an object appears whole when its upload is finished
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")  # hidden: no glob takes it for data
    try:
        with open(aside, "wb") as local:
            yield local
            local.flush()
            os.fsync(local.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(aside)
        raise


class ChecksumWriter:
    """Passes what is written on to `file` and keeps its SHA-256."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self._sha256.update(data)
        return self._file.write(data)

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
        return self._sha256.hexdigest()
