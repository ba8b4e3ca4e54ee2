"""Reads everything that a run root holds and compares it with its checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, get_args

from twhin_core import durations, storage
from twhin_core.checkpoints import blocks, checkpoint
from twhin_core.checkpoints.checkpoint import FINISHED, FOLDER, Checkpoint
from twhin_core.checkpoints.index import INDEX
from twhin_core.checksum import unseal_lines
from twhin_core.errors import TwhinError, damaged
from twhin_core.evaluation.kept_ranks import FILE, ranks_url
from twhin_core.evaluation.result import folder
from twhin_core.export.manifest import MANIFEST as EXPORT
from twhin_core.export.manifest import read_export_manifest
from twhin_core.graph.compared import CHANGES
from twhin_core.graph.manifest import MANIFEST as GRAPH
from twhin_core.graph.manifest import read_manifest
from twhin_core.parquet import FileEntry, open_parquet
from twhin_core.ranking.queries import Split
from twhin_core.recommend.manifest import FOLDER as LISTS
from twhin_core.recommend.manifest import MANIFEST, read_lists_manifest
from twhin_core.report.trained import PLAN
from twhin_core.report.training import LOG
from twhin_core.run import check_is_run, saved_config
from twhin_core.training.outside_record import FOLDER as ROWS
from twhin_core.training.outside_record import RECORD, read_record

T = TypeVar("T")
Check = Callable[[], object]
"""Reads a file. Raises TwhinError if it is not whole."""


@dataclass
class Part:
    """Files of a run that belong together."""

    name: str
    """Their folder or file under the run root."""
    files: int = 0
    unchecked: int = 0
    """Files without a checksum: the checkpoints of version 0.1."""
    faults: list[str] = field(default_factory=list)
    """One line for each file that is missing or damaged."""

    @property
    def state(self) -> str:
        """In words, with the first fault."""
        if self.faults:
            return f"{len(self.faults)} not whole: {self.faults[0]}"
        return "not checked: no checksums" if self.unchecked else "whole"


def verify(root: str) -> list[Part]:
    """Checks every file of a run that a manifest, a marker or its own checksum vouches for.

    Raises:
        UserError: there is no run at `root`.
    """
    check_is_run(root)
    checks: list[tuple[str, Check | None]] = [
        ("config.yaml", partial(saved_config, root)),
        *_graph(root),
        *_checkpoints(root),
        *_results(root),
        *_export(root),
        *_lists(root),
    ]
    parts: dict[str, Part] = {}
    with ThreadPoolExecutor(16 if storage.is_remote(root) else 2) as pool:
        for (name, check), fault in zip(checks, pool.map(_fault, (check for _, check in checks)), strict=True):
            part = parts.setdefault(name, Part(name))
            part.files += 1
            part.unchecked += check is None
            part.faults += [] if fault is None else [fault]
    return list(parts.values())


def _fault(check: Check | None) -> str | None:
    try:
        if check is not None:
            check()
    except TwhinError as error:
        return str(error)
    return None


def _graph(root: str) -> Iterator[tuple[str, Check]]:
    yield from _json(root, GRAPH, partial(read_manifest, root))
    yield from _json(root, CHANGES)
    manifest = _or_none(partial(read_manifest, root))
    if manifest is None:
        return
    holder = manifest.holder(root)
    for table in manifest.tables:
        yield from _files(holder, f"graph/vocab/{table.name}", table.files)
        if table.labels:
            yield from _files(holder, f"graph/labels/{table.name}", table.labels)
        if table.content is not None:
            yield from _files(holder, f"graph/features/{table.name}", table.content.files)
            if table.content.names:
                yield from _files(holder, f"graph/categories/{table.name}", table.content.names)
    for name, split in manifest.all_splits.items():
        yield from _files(holder, f"graph/edges/{name}", split.files)
    yield from _files(holder, "graph/rejected", manifest.rejected.files)


def _checkpoints(root: str) -> Iterator[tuple[str, Check | None]]:
    folder = storage.join(root, FOLDER)
    for step in sorted(int(name) for name in storage.list_folders(folder) if name.isdigit()):
        name, read = f"{FOLDER}/{step}", partial(checkpoint.at_step, root, step)
        yield from _json(root, f"{name}/{blocks.MARKER}", read, name)
        if (found := _or_none(read)) is not None:
            yield from ((name, partial(_check_stored, found, file)) for file in found.marker.files)
            yield from [] if found.marker.files else [(name, None)]


def _check_stored(found: Checkpoint, name: str) -> None:
    blocks.or_gone(found.url, partial(_compare, found, name))


def _compare(found: Checkpoint, name: str) -> None:
    url = storage.join(found.url, name)
    beside = [] if name == INDEX else [storage.read_bytes(url + blocks.SUFFIX)]
    with storage.open_read(url) as file:
        for checksums in (blocks.checksums(file), *beside):
            if blocks.digest(checksums) != found.marker.files[name]:
                raise damaged(url, "does not match its checksum")


def _results(root: str) -> Iterator[tuple[str, Check]]:
    """What training and evaluation published."""
    for path in (PLAN, FINISHED):
        yield from _json(root, path)
    yield from _json(root, RECORD)
    for table, entry in (_or_none(partial(read_record, root)) or {}).items():
        yield from _files(root, f"{ROWS}/{table}", entry.rows)
    for split in get_args(Split):
        for name in ("metrics.json", "gates.json"):
            yield from _json(root, f"{folder(split)}/{name}")
        if storage.exists(ranks_url(root, split)):
            yield f"{folder(split)}/{FILE}", partial(_read_all, ranks_url(root, split))
    for stage in durations.STAGES:
        yield from _json(root, f"{durations.FOLDER}/{stage}.json")
    if storage.exists(storage.join(root, LOG)):
        yield LOG, partial(_check_log, storage.join(root, LOG))
    for step in storage.list_folders(storage.join(root, "evaluation")):
        if step.isdigit():
            yield from _json(root, f"evaluation/{step}/metrics.json")


def _read_all(url: str) -> None:
    with open_parquet(url) as file:
        file.read()


def _check_log(url: str) -> None:
    content = storage.read_bytes(url)
    if len(unseal_lines(content, url)) != len(content.splitlines()):
        raise damaged(url, "has lines that are not whole")


def _export(root: str) -> Iterator[tuple[str, Check]]:
    yield from _json(root, EXPORT, partial(read_export_manifest, root))
    manifest = _or_none(partial(read_export_manifest, root))
    if manifest is None:
        return
    for name, exports in manifest.formats.items():
        for export in exports.values():
            yield from _files(root, f"embeddings as {name}", export.files)
    yield from _files(root, manifest.relations.path, [manifest.relations])
    for matrix in manifest.matrices:
        yield from _files(root, matrix.path, [matrix])


def _lists(root: str) -> Iterator[tuple[str, Check]]:
    for name in storage.list_folders(storage.join(root, LISTS)):
        read = partial(read_lists_manifest, storage.join(root, LISTS, name))
        yield from _json(root, f"{LISTS}/{name}/{MANIFEST}", read)
        if (manifest := _or_none(read)) is not None:
            yield from _files(storage.join(root, LISTS, name), f"{LISTS}/{name}", manifest.files)


def _files(root: str, name: str, entries: list[FileEntry]) -> Iterator[tuple[str, Check]]:
    yield from ((name, partial(entry.check, root)) for entry in entries)


def _json(root: str, path: str, read: Check | None = None, name: str | None = None) -> Iterator[tuple[str, Check]]:
    """A JSON file if it exists, and how it is read."""
    url = storage.join(root, path)
    if storage.exists(url):
        yield name or path, read or partial(storage.read_json, url)


def _or_none(read: Callable[[], T]) -> T | None:
    """What `read` returns; None if the file is damaged, which a check of its own will say."""
    try:
        return read()
    except TwhinError:
        return None
