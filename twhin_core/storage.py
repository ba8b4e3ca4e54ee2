"""One interface to local files and the objects of gs://, s3:// and abfs://.

A URL is a local path or `scheme://bucket/key`. Writes are atomic: a reader sees either the old or the new content.
Files that belong together are published by writing their manifest or marker last.

A failed read or write raises StorageError, an OSError with a one-line message; a missing file raises
FileNotFoundError.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, cast

import fsspec

from twhin_core import checksum
from twhin_core.errors import StorageError, StorageRefused, UserError, damaged, one_line
from twhin_core.stores.interface import scheme_of

if TYPE_CHECKING:
    import pyarrow.fs

    from twhin_core.stores.interface import Generation, ObjectStore


def is_remote(url: str) -> bool:
    """Whether `url` is on an object store. Raises UserError as `scheme_of`."""
    return scheme_of(url) != ""


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `url`, and its path there."""
    if scheme := scheme_of(url):
        return fsspec.filesystem(scheme, **options(url)), url.removeprefix(f"{scheme}://").rstrip("/")
    return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(url.removeprefix("file://")))


def options(url: str) -> dict[str, Any]:
    """The arguments of `url`'s file system, for libraries that create it themselves."""
    scheme = scheme_of(url)
    if not scheme:
        return {}
    store: type[ObjectStore] = fsspec.get_filesystem_class(scheme)
    return store.options()


def arrow_filesystem(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Like `filesystem`, for pyarrow's readers and writers."""
    import pyarrow.fs

    fs, path = filesystem(url)
    if is_remote(url):
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path
    return pyarrow.fs.LocalFileSystem(), path


def join(root: str, *parts: str) -> str:
    return "/".join([root.rstrip("/") or "/", *parts])


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def size(url: str) -> int:
    """The size of a file in bytes."""
    fs, path = filesystem(url)
    return int(fs.size(path))


def check_bucket(url: str) -> None:
    """Raises UserError if the bucket of `url` does not exist."""
    fs, path = filesystem(url)
    store: ObjectStore = fs
    bucket = path.partition("/")[0]
    if not store.has_bucket(bucket):
        raise StorageRefused(f"{url}: there is no bucket {bucket}")


def list_folders(url: str) -> list[str]:
    """The names of the folders directly under `url`; none without it. Raises StorageRefused if it cannot be listed."""
    fs, path = filesystem(url)
    with _read_errors(url):
        try:
            entries = fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
    folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in folders)


def remove(url: str) -> None:
    """Removes a file, or a folder with everything in it, if it exists."""
    fs, path = filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def remove_all_but(url: str, kept: Iterable[str]) -> None:
    """Removes all files below `url`, including hidden ones, except those whose URLs are in `kept`."""
    fs, path = filesystem(url)
    keep = {filesystem(name)[1] for name in kept}
    for name in fs.find(path):
        if name not in keep:
            with contextlib.suppress(FileNotFoundError):  # removed by a request whose answer was lost
                fs.rm_file(name)
    if not is_remote(url):
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)


def read_bytes(url: str) -> bytes:
    """A file's content."""
    fs, path = filesystem(url)
    with _read_errors(url):
        return cast(bytes, fs.cat_file(path))  # in one request: the object may be replaced between two


def read_text(url: str) -> str:
    """A file's content. Raises UserError if it is not UTF-8."""
    content = read_bytes(url)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{url}: line {line}: not text in UTF-8; save the file in this encoding") from None


def write_text(url: str, text: str) -> None:
    with open_write(url) as file:
        file.write(text.encode())


def read_json(url: str) -> Any:
    """The value that `write_json` or `publish_json` was given. Raises Damaged if the file has changed since."""
    return parse_json(read_bytes(url), url)


def parse_json(content: bytes, url: str) -> Any:
    """Like `read_json`, from the content of the file."""
    try:
        return checksum.unseal(json.loads(content.decode()), url)
    except ValueError as error:  # text that is not UTF-8 or not JSON
        raise damaged(url, f"cannot be read as JSON: {one_line(error)}") from None


def find_json(url: str) -> Any:
    """Like `read_json`, but None if there is no such file."""
    try:
        return read_json(url)
    except FileNotFoundError:
        return None


def write_json(url: str, value: Any) -> None:
    write_text(url, as_json(value))


def as_json(value: Any) -> str:
    """The content that `write_json` writes."""
    return json.dumps(checksum.seal(value), indent=1, ensure_ascii=False) + "\n"


def open_read(url: str) -> IO[bytes]:
    fs, path = filesystem(url)
    with _read_errors(url):
        return cast(IO[bytes], fs.open(path, "rb"))


@contextlib.contextmanager
def _read_errors(url: str) -> Iterator[None]:
    """Turns an OSError of a read into a StorageRefused that names the URL, unless there is no such file."""
    try:
        yield
    except (StorageError, FileNotFoundError):
        raise
    except OSError as error:
        raise StorageRefused(f"{url}: cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def open_write(url: str) -> Iterator[IO[bytes]]:
    """A file to write. It appears when the block ends, and never if the block raises.

    Raises:
        StorageRefused: the disk is full, the bucket does not exist, or permission is missing.
    """
    with _write_errors(url), _open_object(url) if is_remote(url) else _open_local(url) as file:
        yield file


@contextlib.contextmanager
def _write_errors(url: str) -> Iterator[None]:
    """Turns an OSError of a write into a StorageRefused that names the URL or the missing bucket."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if is_remote(url) and isinstance(error, FileNotFoundError):
            check_bucket(url)
        raise StorageRefused(f"{url}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _open_object(url: str) -> Iterator[IO[bytes]]:
    fs, path = filesystem(url)
    file = fs.open(path, "wb")
    try:
        yield file
    except BaseException:
        with contextlib.suppress(OSError):
            file.discard()
        file.closed = True  # else garbage collection would upload the buffered data
        raise
    file.close()  # the object appears once its upload is complete


@contextlib.contextmanager
def _open_local(url: str) -> Iterator[IO[bytes]]:
    folder, name = os.path.split(filesystem(url)[1])
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")  # hidden, so that `glob` skips it
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, os.path.join(folder, name))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def read_generation(url: str) -> tuple[str, Generation]:
    """A small file's content, and what changes with every write of other content; `""` and 0 if there is no file."""
    fs, path = filesystem(url)
    if is_remote(url):
        store: ObjectStore = fs
        content, generation = store.read_generation(path)
        return content.decode(errors="replace"), generation
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            return file.read().decode(errors="replace"), status.st_mtime_ns ^ status.st_ino << 64
    except FileNotFoundError:
        return "", 0


def write_if(url: str, text: str, generation: Generation) -> Generation | None:
    """Writes a small file if nobody has written it since `read_generation` returned `generation`.

    Atomic on an object store; on a local disk, the caller must hold a lease (see `lease`).

    Returns:
        The new generation, or None if another process has written the file.
    """
    fs, path = filesystem(url)
    with _write_errors(url):
        if is_remote(url):
            store: ObjectStore = fs
            return store.write_if(path, text.encode(), generation)
        found, current = read_generation(url)
        if current != generation:
            return current if found == text else None
        write_text(url, text)
        return read_generation(url)[1]


def publish(url: str, text: str) -> None:
    """Writes a new manifest or marker, which completes the files written before it.

    Raises:
        StorageRefused: another run has published here in the meantime.
    """
    if write_if(url, text, 0) is None:
        raise StorageRefused(f"{url}: another run has published here in the meantime")


def publish_json(url: str, value: Any) -> None:
    publish(url, as_json(value))
