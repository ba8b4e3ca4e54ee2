"""What a path in a config means: a file, a folder with everything in it, or a pattern.

Only what the user wrote is a pattern. What is found is a name, whatever characters it has.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

from twhin_core import storage
from twhin_core.errors import NotFound, StorageRefused, UserError
from twhin_core.progress import log
from twhin_core.stores.interface import scheme_of

MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class FoundFile:
    """A file. `version`: when it was last modified, in ns since 1970; on an object store, its generation, or a number
    that stands for its ETag."""

    url: str
    size: int
    version: int


def find_files(path: str, is_pattern: bool = True) -> list[FoundFile]:
    """The files that `path` stands for, sorted by name.

    A folder stands for all files in it and in its subfolders; a pattern for all files and folders that match it, where
    `**` is any number of folders. Links are followed. Names that begin with `.` or `_` only count if the path spells
    that character out. Without `is_pattern`, `path` is a name, whatever characters it has.

    Raises:
        NotFound: there is no such file.
        UserError: a link is broken, or something else than a file or folder is there.
        StorageRefused: a folder cannot be read.
    """
    tree, base, parts = _locate(path)
    matching = {entry.path: entry for entry in _find(tree, base, parts, is_pattern)}
    found = sorted(_without_second_names(list(matching.values())), key=lambda entry: entry.path)
    if not found and storage.is_remote(path):
        storage.check_bucket(path)
    if not found:
        raise NotFound(f"{path}: no file matches")
    return [FoundFile(tree.prefix + _as_text(entry.path), entry.size, entry.version) for entry in found]


@dataclass(frozen=True)
class _Entry:
    """A file or a folder. `linked`: its path leads through a symbolic link below the folder where the search began."""

    path: str
    is_folder: bool
    size: int = 0
    version: int = 0
    linked: bool = False


class _Tree(Protocol):
    """A file system. `prefix`: what its paths have in front in a URL."""

    prefix: str

    def entry(self, path: str, linked: bool = False) -> _Entry | None:
        """What is at `path`, or None."""

    def children(self, folder: _Entry, wanted: Callable[[str], bool]) -> Iterator[_Entry]:
        """What is in `folder` under a wanted name."""

    def files_below(self, folder: _Entry, wanted: Callable[[str], bool]) -> Iterator[tuple[Sequence[str], _Entry]]:
        """All files in `folder` and its subfolders to which wanted names lead, each with these names."""


def _locate(path: str) -> tuple[_Tree, str, list[str]]:
    """The file system of `path`, the folder where the search begins, and the parts of the path below it."""
    if storage.is_remote(path):
        fs, key = storage.filesystem(path)
        bucket, _, rest = key.partition("/")
        return _Bucket(fs, scheme_of(path)), bucket, rest.split("/") if rest else []
    path = path.removeprefix("file://")
    base = os.getcwd()
    while path.startswith("../"):
        base, path = os.path.dirname(base), path[3:].lstrip("/")
    if path.startswith("~"):
        user, _, path = path.partition("/")
        base = os.path.expanduser(user)
    elif path.startswith("/"):
        base = "/"
    return _Disk(), base, [part for part in path.split("/") if part not in ("", ".")]


def _find(tree: _Tree, base: str, parts: list[str], is_pattern: bool) -> Iterator[_Entry]:
    fixed = list(itertools.takewhile(lambda part: not is_pattern or not MAGIC.search(part), parts))
    start = tree.entry(_join(base, *fixed))
    if start is not None:
        yield from _match(tree, replace(start, linked=False), parts[len(fixed) :])


def _match(tree: _Tree, entry: _Entry, parts: list[str]) -> Iterator[_Entry]:
    """The files below `entry` that match `parts`, or that are in a folder that does; `entry` itself without parts."""
    if not parts and not entry.is_folder:
        yield entry
    elif not entry.is_folder:
        return
    elif not parts or parts[0] == "**":
        spelled = tuple(part[0] for part in parts if part[0] in "._")
        below = tree.files_below(entry, lambda name: _is_visible(name) or name.startswith(spelled))
        yield from (file for names, file in below if _fits(names, parts))
    elif MAGIC.search(parts[0]):
        for child in _children(tree, entry, parts[0]):
            yield from _match(tree, child, parts[1:])
    elif (named := tree.entry(_join(entry.path, parts[0]), entry.linked)) is not None:
        yield from _match(tree, named, parts[1:])


def _children(tree: _Tree, folder: _Entry, part: str) -> list[_Entry]:
    """What matches `part` in a folder, or what has that name, such as `p[1]`, which does not match itself."""
    found = list(tree.children(folder, lambda name: name == part or _matches(name, part)))
    if len(found) > 1 and not _matches(part, part):
        for child in found:
            if child.path == _join(folder.path, part):
                raise UserError(
                    f"{tree.prefix}{child.path}: is a name, and a pattern of others; write [[] for a [ in a name"
                )
    return found


def _fits(names: Sequence[str], parts: list[str]) -> bool:
    """Whether a file matches `parts`, or is in a folder that does."""
    if not parts:
        return all(map(_is_visible, names))
    if parts[0] == "**":
        skipped = itertools.takewhile(lambda count: all(map(_is_visible, names[:count])), range(len(names)))
        return any(_fits(names[count:], parts[1:]) for count in skipped)
    return bool(names) and _matches(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _matches(name: str, part: str) -> bool:
    return fnmatchcase(name, part) and (_is_visible(name) or name[0] == part[0])


def _is_visible(name: str) -> bool:
    """Whether `name` counts as data. Partition folders may begin with `_` in Hive and Spark: `_day=7`."""
    return not name.startswith(".") and not (name.startswith("_") and "=" not in name)


def _join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names]) or "/"


def _without_second_names(found: list[_Entry]) -> list[_Entry]:
    """Leaves out what links to files that are found under their own names as well, which would count twice."""
    if not any(entry.linked for entry in found):
        return found
    places: dict[str, _Entry] = {}
    for entry in sorted(found, key=lambda entry: (entry.linked, entry.path.count("/"), entry.path)):
        folder, _, name = entry.path.rpartition("/")
        places.setdefault(_join(os.path.realpath(folder), name), entry)
    kept = []
    for place, entry in places.items():
        file = os.path.realpath(place)
        if file != place and file in places:
            log.info("%s: left out, since it links to %s, which is read", entry.path, file)
        else:
            kept.append(entry)
    return kept


def _as_text(path: str) -> str:
    """Raises UserError if a name is not UTF-8, which no engine and no manifest could hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path!a}: this name is not UTF-8; rename the file or folder") from None
    return path


class _Disk:
    prefix = ""

    def entry(self, path: str, linked: bool = False) -> _Entry | None:
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(path):
                raise UserError(f"{path}: links to {os.readlink(path)}, which does not exist") from None
            return None
        except OSError as error:
            raise StorageRefused(f"{path}: cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: is neither a file nor a folder")
        linked = linked or os.path.islink(path)
        return _Entry(path, stat.S_ISDIR(status.st_mode), status.st_size, status.st_mtime_ns, linked)

    def children(self, folder: _Entry, wanted: Callable[[str], bool]) -> Iterator[_Entry]:
        try:
            names = os.listdir(folder.path)
        except OSError as error:
            raise StorageRefused(f"{folder.path}: cannot be read: {error.strerror}") from error
        for name in filter(wanted, names):
            child = self.entry(_join(folder.path, name), folder.linked)
            if child is not None:  # else it was removed in the meantime
                yield child

    def files_below(self, folder: _Entry, wanted: Callable[[str], bool]) -> Iterator[tuple[Sequence[str], _Entry]]:
        return self._walk(folder, wanted, (), frozenset())

    def _walk(
        self, folder: _Entry, wanted: Callable[[str], bool], names: tuple[str, ...], above: frozenset[str]
    ) -> Iterator[tuple[Sequence[str], _Entry]]:
        place = os.path.realpath(folder.path)
        if place in above:
            return  # a link to a folder that contains it
        for child in self.children(folder, wanted):
            below = (*names, child.path.rpartition("/")[2])
            if child.is_folder:
                yield from self._walk(child, wanted, below, above | {place})
            else:
                yield below, child


class _Bucket:
    """An object store. Its folders are what the names of objects say."""

    def __init__(self, fs: Any, scheme: str) -> None:
        self._fs, self.prefix = fs, f"{scheme}://"

    def entry(self, path: str, linked: bool = False) -> _Entry | None:
        try:
            return _object(self._fs.info(path))
        except FileNotFoundError:
            return None

    def children(self, folder: _Entry, wanted: Callable[[str], bool]) -> Iterator[_Entry]:
        for found in self._fs.ls(folder.path, detail=True):
            child = _object(found)
            name = child.path.rpartition("/")[2]
            if child.path != folder.path and name and wanted(name):
                yield child

    def files_below(self, folder: _Entry, wanted: Callable[[str], bool]) -> Iterator[tuple[Sequence[str], _Entry]]:
        start = folder.path + "/"
        for name, found in self._fs.find(folder.path, detail=True).items():
            names = name.removeprefix(start).split("/")
            if name.startswith(start) and names[-1] and all(map(wanted, names)):
                yield names, _object(found)


def _object(found: dict[str, Any]) -> _Entry:
    """The entry of what fsspec found."""
    is_folder = found["type"] == "directory"
    return _Entry(found["name"].rstrip("/"), is_folder, found["size"] or 0, int(found.get("generation", 0)))
