"""Finds and removes what a run root or a series holds without need: what was cut off, and old checkpoints."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from twhin_core import lease, storage
from twhin_core.checkpoints.blocks import MARKER
from twhin_core.checkpoints.checkpoint import FINISHED, FOLDER
from twhin_core.config import Config
from twhin_core.errors import UserError, one_line
from twhin_core.graph.manifest import MANIFEST, shared_graph
from twhin_core.output import Cell, Column, Listing
from twhin_core.published import list_ids, root_of
from twhin_core.removed import read_removed
from twhin_core.run import TRIALS, check_is_run, is_series, saved_config, sweep_with
from twhin_core.series.retention import left_of, remove_version
from twhin_core.sizes import readable
from twhin_core.stages.old_checkpoints import sort_out
from twhin_core.stages.status import at_work

ASIDE = re.compile(r"(^|/)\.[^/]+\.[0-9a-f]{8}\.tmp$")
"""A file that `storage.open_write` has not renamed yet."""
GRAPH = MANIFEST.partition("/")[0]


@dataclass(frozen=True)
class Leftover:
    """Files that may go, or that stay for a reason."""

    root: str
    """The run root."""
    path: str
    """A file or folder there; empty for the root itself."""
    files: int
    bytes: int
    why: str
    """Why they may go."""
    kept: str | None
    """What keeps them."""
    is_removed: bool = False

    @property
    def url(self) -> str:
        return storage.join(self.root, self.path) if self.path else self.root


def clean(place: str, removes: bool) -> list[Leftover]:
    """What the run root or the series at `place` holds without need; with `removes`, removes what nothing keeps.

    No command that worked before needs any of it: see `old_checkpoints` for what needs a checkpoint. Versions that are
    whole stay.

    Raises:
        UserError: there is neither; or with `removes`, a stage has just begun to work there.
    """
    if not is_series(place):
        check_is_run(place)
        return _clean_run(place, removes)
    found: list[Leftover] = []
    for version in list_ids(place):
        root = root_of(place, version)
        found += _clean_run(root, removes) if read_removed(root) is None else _clean_removed(place, version, removes)
    return found


def _clean_run(root: str, removes: bool) -> list[Leftover]:
    worker = at_work(root)
    if worker is not None:  # in a series, other versions are cleaned meanwhile
        return [replace(of, kept=of.kept or worker) for of in _find(root)]
    if not removes:
        return _find(root)
    with _held(root):
        found = _find(root)
        for of in found:
            if of.kept is None:
                _remove(of)
    return [replace(of, is_removed=of.kept is None) for of in found]


@contextlib.contextmanager
def _held(root: str) -> Iterator[None]:
    """Keeps every stage from beginning. Raises UserError if one has just begun."""
    with contextlib.ExitStack() as stack:
        for name in lease.STAGES:
            stack.enter_context(lease.hold(root, name, grace=0))
        yield


def _clean_removed(series: str, version: str, removes: bool) -> list[Leftover]:
    """What a removal of a version that was cut off has left."""
    root = root_of(series, version)
    files = left_of(root)
    if not files:
        return []
    fs, _ = storage.filesystem(root)
    found = Leftover(root, "", len(files), sum(int(fs.size(name)) for name in files), "its removal was cut off", None)
    if removes:
        with lease.hold(series, "publish"):
            found = replace(found, is_removed=remove_version(series, version))
    return [found]


def _remove(of: Leftover) -> None:
    marker = storage.join(of.url, MARKER)
    if of.path.startswith(f"{FOLDER}/"):
        storage.remove(marker)  # first, so that a partially removed checkpoint is incomplete
    if of.path == GRAPH:
        storage.remove_all_but(of.url, [storage.join(of.root, MANIFEST)])
    else:
        storage.remove(of.url)


def _find(root: str) -> list[Leftover]:
    fs, base = storage.filesystem(root)
    found = {name[len(base) + 1 :]: of for name, of in fs.find(base, detail=True).items()}
    files = {path: of for path, of in found.items() if not path.startswith(f"{TRIALS}/")}  # runs of their own
    sizes = {path: int(of["size"]) for path, of in files.items()}
    try:
        config = saved_config(root) if "config.yaml" in sizes else None
        return [*_aside(root, files), *_checkpoints(config, root, sizes), *_graph(config, root, sizes)]
    except UserError as error:
        whole = Leftover(root, "", len(sizes), sum(sizes.values()), "unknown", f"it cannot be read: {one_line(error)}")
        return [whole]


def _aside(root: str, files: dict[str, dict[str, Any]]) -> Iterator[Leftover]:
    """Files on a local disk that nobody has written to for longer than a holder may be silent."""
    for path, of in files.items():
        if not storage.is_remote(root) and ASIDE.search(path) and time.time() - of["mtime"] > lease.EXPIRY:
            yield Leftover(root, path, 1, int(of["size"]), "a process was killed while it wrote it", None)


def _checkpoints(config: Config | None, root: str, sizes: dict[str, int]) -> Iterator[Leftover]:
    steps = sorted({int(of[1]) for of in map(_step, sizes) if of is not None})
    finished = storage.find_json(storage.join(root, FINISHED))
    for step in steps:
        if f"{FOLDER}/{step}/{MARKER}" not in sizes:
            is_last = finished is not None and finished["step"] == step
            kept = f"{FINISHED} names it, so its marker may have been lost" if is_last else None
            yield _folder(root, f"{FOLDER}/{step}", sizes, "it was never completed", kept)
    if config is None:
        return
    count = config.training.keep_checkpoints_after_success or 1
    sweep = sweep_with(root)  # which removes what it has measured by itself
    for checkpoint, use in sort_out(root, count):
        if sweep is not None and use is None:
            use = f"the sweep {sweep} may not have measured it"
        yield _folder(root, f"{FOLDER}/{checkpoint.step}", sizes, "a newer one is complete", use)


def _step(path: str) -> re.Match[str] | None:
    return re.match(rf"{FOLDER}/(\d+)/", path)


def _graph(config: Config | None, root: str, sizes: dict[str, int]) -> Iterator[Leftover]:
    """The files of a graph that prepare did not finish, or that is not used in favor of another run's."""
    if config is None or config.prepare is None:  # without prepare, the edges may be anywhere
        return
    shares = MANIFEST in sizes and shared_graph(root) is not None
    if MANIFEST in sizes and not shares:
        return
    others = {path: size for path, size in sizes.items() if path.startswith(f"{GRAPH}/") and path != MANIFEST}
    others = {path: size for path, size in others.items() if not ASIDE.search(path)}
    if not others:
        return
    trained = any(_step(path) for path in sizes)
    kept = f"the run is trained, so {MANIFEST} may have been lost" if trained and not shares else None
    why = "the run uses another's graph" if shares else "prepare was cut off"
    yield Leftover(root, GRAPH, len(others), sum(others.values()), why, kept)


def _folder(root: str, path: str, sizes: dict[str, int], why: str, kept: str | None) -> Leftover:
    of = [size for name, size in sizes.items() if name.startswith(f"{path}/") and not ASIDE.search(name)]
    return Leftover(root, path, len(of), sum(of), why, kept)


def list_leftovers(found: list[Leftover], place: str) -> Listing:
    """What may go, or went, and what is kept."""
    columns = [
        Column("run"),
        Column("path"),
        Column("files", ",d"),
        Column("bytes", ",d"),
        Column("state"),
        Column("why"),
    ]
    rows: list[list[Cell]] = [
        [of.root.removeprefix(place.rstrip("/")).strip("/") or ".", of.path or ".", of.files, of.bytes, _state(of),
         of.kept or of.why]
        for of in found
    ]  # fmt: skip
    gone = sum(of.bytes for of in found if of.is_removed)
    free = sum(of.bytes for of in found if of.kept is None and not of.is_removed)
    title = f"{readable(gone)} removed of {place}" if gone else f"{readable(free)} may go of {place}; --yes removes it"
    return Listing("leftovers", title, columns, rows)


def _state(of: Leftover) -> str:
    return "removed" if of.is_removed else "may go" if of.kept is None else "kept"
