"""What S3 and Azure Blob Storage have in common: a file system of fsspec on obstore's clients.

The methods beside those of fsspec's file systems are described in `interface`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from fsspec.spec import AbstractFileSystem
from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from twhin_core.errors import StorageError, StorageRefused, one_line
from twhin_core.stores import failures
from twhin_core.stores.interface import Generation
from twhin_core.stores.obstore_errors import ERRORS, Busy, explained, said
from twhin_core.stores.obstore_file import PART, ObjectFile, split
from twhin_core.stores.obstore_settings import Environment, environment, retry_config

if TYPE_CHECKING:
    from obstore.store import RetryConfig

T = TypeVar("T")

REMOVALS_AT_ONCE = 16
CLIENTS = 64
"""How many are kept."""


class ObstoreFileSystem(AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """The objects of one kind of store. It holds nothing itself, and shares its clients with others."""

    prefix: str
    """What the names of the store's environment variables begin with."""
    credentials: str
    """What to set if they are missing."""

    @staticmethod
    def connect(bucket: str, given: dict[str, str], retries: RetryConfig) -> Any:
        """A client of the bucket, with settings from the environment variables in `given`.

        Raises:
            StorageRefused, BaseError, ValueError: the settings are wrong.
        """
        raise NotImplementedError

    @staticmethod
    def options() -> dict[str, Any]:
        return {}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        bucket, key = split(path)
        if key:
            with suppress(FileNotFoundError):
                return _file(bucket, self.request(path, lambda store: store.head(key)))
        if not self._has_objects(path) and key:
            raise FileNotFoundError(f"{self.url_of(path)}: there is no such object")
        return _folder(path)

    def modified(self, path: str) -> datetime:
        """When the object was written last, which DuckDB asks for."""
        path = self._strip_protocol(path)
        written: datetime = self.request(path, lambda store: store.head(split(path)[1])["last_modified"])
        return written

    def exists(self, path: str, **_: Any) -> bool:
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        bucket, key = split(path)
        found = self.request(path, lambda store: store.list_with_delimiter(key or None))
        folders = [_folder(f"{bucket}/{name}") for name in found["common_prefixes"]]
        files = [_file(bucket, meta) for meta in found["objects"]]
        entries = folders + _without_folders(files, {path, *(folder["name"] for folder in folders)})
        if not entries and key:
            entries = [self.info(path)]
        return entries if detail else [entry["name"] for entry in entries]

    def find(self, path: str, maxdepth: Any = None, withdirs: bool = False, detail: bool = False, **_: Any) -> Any:
        assert maxdepth is None
        assert not withdirs
        path = self._strip_protocol(path)
        found = {file["name"]: file for file in self._objects(path)}
        if not found and "/" in path:
            with suppress(FileNotFoundError):
                entry = self.info(path)
                found = {path: entry} if entry["type"] == "file" else {}
        return found if detail else sorted(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        path = self._strip_protocol(path)
        key = split(path)[1]
        if start is None and end is None:
            return self.request(path, lambda store: bytes(store.get(key).bytes()))
        # From its end only with a size: Azure knows no such ranges.
        size = self.size(path) if end is None or end < 0 or (start or 0) < 0 else end
        begin, stop = slice(start, end).indices(size)[:2]
        if begin >= stop:
            return b""
        return self.request(path, lambda store: bytes(store.get_range(key, start=begin, end=stop)))

    def cat_ranges(self, paths: list[str], starts: list[int], ends: list[int], *_: Any, **__: Any) -> list[bytes]:
        """Neighboring ranges of an object are read in one request, and the requests at once."""
        places: dict[str, list[int]] = {}
        for place, path in enumerate(paths):
            places.setdefault(self._strip_protocol(path), []).append(place)
        read = [b""] * len(paths)
        for path, at in places.items():
            begins, stops = [starts[place] for place in at], [ends[place] for place in at]
            get = functools.partial(obstore.get_ranges, path=split(path)[1], starts=begins, ends=stops)
            for place, content in zip(at, self.request(path, get), strict=True):
                read[place] = bytes(content)
        return read

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        (bucket, key), (other, copy) = split(source), split(target)
        if bucket == other:
            self.request(source, lambda store: store.copy(key, copy))
            return
        with self.open(source) as given, self.open(target, "wb") as written:
            while content := given.read(PART):
                written.write(content)

    def rm_file(self, path: str) -> None:
        path = self._strip_protocol(path)
        self.request(path, lambda store: store.delete(split(path)[1]))

    def rm(self, path: str, recursive: bool = False, maxdepth: Any = None) -> None:
        path = self._strip_protocol(path)
        if not recursive:
            self.rm_file(path)
            return

        def remove(name: str) -> None:
            with suppress(FileNotFoundError):  # removed by a request whose answer was lost
                self.rm_file(name)

        with ThreadPoolExecutor(REMOVALS_AT_ONCE) as pool:
            list(pool.map(remove, {path, *self.find(path)} if "/" in path else self.find(path)))

    def glob(self, path: str, **_: Any) -> list[str]:
        # fsspec and DuckDB take any path for a pattern, and would read or remove what another name matches.
        return [path]

    def has_bucket(self, bucket: str) -> bool:
        try:
            self._has_objects(bucket)
        except FileNotFoundError:
            return False
        return True

    def read_generation(self, path: str) -> tuple[bytes, Generation]:
        def read(store: Any) -> tuple[bytes, str]:
            found = store.get(split(path)[1])
            return bytes(found.bytes()), found.meta["e_tag"]

        try:
            return self.request(path, read)
        except FileNotFoundError:
            return b"", 0

    def write_if(self, path: str, content: bytes, generation: Generation) -> Generation | None:
        mode: Any = {"e_tag": generation} if generation else "create"

        def write(store: Any) -> Generation | None:
            try:
                written: str = store.put(split(path)[1], content, mode=mode, use_multipart=False)["e_tag"]
                return written
            except (AlreadyExistsError, PreconditionError) as error:
                found, current = self.read_generation(path)
                if current == generation:  # S3 refuses the later of two requests at once, whatever becomes of the first
                    raise Busy(said(error)) from None
                return current if current and found == content else None

        return self.request(path, write)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> ObjectFile:
        return ObjectFile(self, path, mode, PART if mode == "wb" else "default", cache_type="readahead")

    def _objects(self, path: str) -> list[dict[str, Any]]:
        """The objects below a folder."""
        bucket, key = split(path)
        listed = self.request(path, lambda store: store.list(key or None).collect())
        files = [_file(bucket, meta) for meta in listed]
        return _without_folders(files, {path, *(above for file in files for above in _folders_above(file["name"]))})

    def _has_objects(self, path: str) -> bool:
        """Whether anything is below a folder. Raises FileNotFoundError if there is no such bucket."""
        key = split(path)[1] or None
        return self.request(path, lambda store: bool(next(store.list(key, chunk_size=1), [])))

    def url_of(self, path: str) -> str:
        return f"{self.protocol}://{path}"

    def client_of(self, bucket: str) -> Any:
        """A client of the bucket. Raises StorageRefused if the settings are wrong."""
        given, schedule = environment(self.prefix), failures.schedule()
        try:
            return _client(self.connect, bucket, given, schedule)
        except (BaseError, ValueError) as error:
            raise StorageRefused(f"{self.url_of(bucket)}: {one_line(error)}") from None

    def request(self, path: str, act: Callable[[Any], T]) -> T:
        """What `act` returns, given a client.

        The client retries every request that it knows to be safe to repeat. `act` is called again for the others, and
        for answers that were cut short.
        """
        client = self.client_of(split(path)[0])

        def once() -> T:
            try:
                return act(client)
            except StorageError:
                raise
            except ERRORS as error:
                raise explained(error, self.url_of(path), self.credentials) from None

        retry = Retry(lambda error: isinstance(error, Busy), **failures.schedule()._asdict())
        try:
            return retry(once)()
        except RetryError as error:
            raise failures.timed_out(self.url_of(path), error.cause) from None


@functools.lru_cache(CLIENTS)
def _client(connect: Callable[..., Any], bucket: str, given: Environment, schedule: failures.Schedule) -> Any:
    """A client that is used again until the environment changes."""
    return connect(bucket, dict(given), retry_config(schedule))


def _file(bucket: str, meta: Any) -> dict[str, Any]:
    """An object in fsspec's terms. `generation`: a number that stands for its ETag."""
    tag = (meta["e_tag"] or "").strip('"')
    number = int.from_bytes(sha256(tag.encode()).digest()[:7], "big")
    return {"name": f"{bucket}/{meta['path']}", "size": meta["size"], "type": "file", "generation": number}


def _folder(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


def _folders_above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _without_folders(files: list[dict[str, Any]], folders: set[str]) -> list[dict[str, Any]]:
    """Leaves out the objects of no bytes that only make a folder visible."""
    return [file for file in files if file["size"] or file["name"] not in folders]
