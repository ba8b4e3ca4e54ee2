"""Counts the training edges of each node in one pass, in memory or in files.

The key of a count is `group · rows + node`, where `rows` is the size of the largest table. A group is a side of a
relation (`end`) or, after regrouping, a table.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twhin_core.data.edges import Edges
from twhin_core.schema import SIDES, Schema

Array = npt.NDArray[np.int64]

Run = tuple[Array, Array]
"""Ascending keys, and their counts."""

BLOCK = 1 << 20
"""Number of counts read from a file at once, 16 bytes each."""

INDEX_STEP = 4096
"""Counts of a file per entry of the index that is kept in memory, 8 bytes each."""

_NOTHING = np.empty(0, np.int64), np.empty(0, np.int64)


PSEUDO_COUNT = 1.0
"""Added to the count of every node before it becomes a share, so that no logarithm is of 0."""


@dataclass(frozen=True)
class Frequencies:
    """The counts of all keys that occur, in memory: 16 bytes each."""

    key: Array
    """[n], ascending: group · rows + node."""
    count: Array
    """[n], each above 0."""
    rows: int
    """Rows of the largest table."""

    def of(self, group: Array, node: Array) -> Array:
        """The count of each node in its group, which may be 0."""
        wanted = group * self.rows + node
        place = np.searchsorted(self.key, wanted)
        found = self.key.take(place, mode="clip") == wanted
        return np.where(found, self.count.take(place, mode="clip"), 0)

    def totals(self, groups: int) -> Array:
        """The sum of counts of each of the groups 0 … groups - 1: [groups]."""
        sums = np.concatenate([[0], self.count.cumsum()])
        return np.diff(sums[np.searchsorted(self.key, np.arange(groups + 1) * self.rows)])

    def log_shares(self, group: Array, node: Array, offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """log(p · rows) of each node, where p is its smoothed share of its group. `offsets`: of all groups."""
        return log_shares(self.of(group, node), offsets[group])

    def share_offsets(self, rows: Array) -> npt.NDArray[np.float64]:
        """What to add to log(count + PSEUDO_COUNT) for log(p · rows), by group.

        p = (count + PSEUDO_COUNT) / (total + rows · PSEUDO_COUNT) sums up to 1 over a group's table; p · rows says how
        much likelier a node is than by a uniform draw.

        Args:
            rows: [groups], of the table of each group.
        """
        offsets: npt.NDArray[np.float64] = np.log(rows / (self.totals(len(rows)) + rows * PSEUDO_COUNT))
        return offsets

    def of_sides(self, sides: Collection[str]) -> Frequencies:
        """Those of the groups that are ends on these sides."""
        kept = np.isin(self.key // self.rows % 2, [side == "rhs" for side in sides])
        return Frequencies(self.key[kept], self.count[kept], self.rows)

    def regrouped(self, group: Array) -> Frequencies:
        """Moves group g to `group[g]`, adding up the counts of groups that are merged."""
        old, node = np.divmod(self.key, self.rows)
        return Frequencies(*sum_by_key(group[old] * self.rows + node, self.count), self.rows)


def log_shares(count: Array, offset: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """log(p · rows) of nodes with that count, which may be 0. `offset`: see `Frequencies.share_offsets`."""
    found: npt.NDArray[np.float64] = np.log(count + PSEUDO_COUNT) + offset
    return found.astype(np.float32)


class StoredFrequencies:
    """Counts in a file, for more nodes than fit in memory."""

    def __init__(self, path: Path, rows: int) -> None:
        """`rows`: the size of the largest table."""
        self._path, self.rows = path, rows
        stored = np.memmap(path, np.int64, "r") if path.stat().st_size else np.empty(0, np.int64)
        self._index = np.array(stored[:: 2 * INDEX_STEP])

    def blocks(self) -> Iterator[Run]:
        """All keys and counts in blocks."""
        yield from _blocks(self._path)

    def between(self, first: int, last: int) -> Iterator[Run]:
        """The keys in [first, last) and their counts, in blocks; reads little else of the file."""
        begin = max(int(np.searchsorted(self._index, first, side="right")) - 1, 0) * INDEX_STEP
        end = int(np.searchsorted(self._index, last)) * INDEX_STEP
        for keys, counts in _blocks(self._path, begin, end):
            inside = slice(*np.searchsorted(keys, [first, last]))
            yield keys[inside], counts[inside]

    def of(self, group: Array, node: Array) -> Array:
        """The count of each node in its group, which may be 0."""
        keys, place = np.unique(group * self.rows + node, return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        for key, count in self.between(keys[0], keys[-1] + 1) if len(keys) else ():
            if len(key):
                inside = slice(*np.searchsorted(keys, [key[0], key[-1] + 1]))
                at = np.searchsorted(key, keys[inside])
                counts[inside] = np.where(key[at] == keys[inside], count[at], 0)
        return counts[place]

    def of_group(self, group: int) -> Iterator[Run]:
        """(node, count) of all nodes of a group in ascending order, in blocks."""
        for keys, counts in self.between(group * self.rows, (group + 1) * self.rows):
            yield keys - group * self.rows, counts

    def regrouped(self, group: Array, folder: Path, memory: int) -> StoredFrequencies:
        """Like `Frequencies.regrouped`, with a `Counter` in `folder`."""
        counter = Counter(self.rows, folder, memory)
        for keys, counts in self.blocks():
            old, node = np.divmod(keys, self.rows)
            counter.add(group[old] * self.rows + node, counts)
        return counter.stored()


class Counter:
    """Adds up counts. With a folder, counts that do not fit in `memory` bytes are spilled to files there."""

    def __init__(self, rows: int, folder: Path | None = None, memory: int = 0) -> None:
        """`rows`: the size of the largest table; `folder`: is created."""
        if folder is not None:
            folder.mkdir()
        self._rows, self._folder = rows, folder
        self._max_counts = max(memory // 64, BLOCK)  # merging needs four times the 16 bytes of a count
        self._runs: list[Run] = []
        self._files: list[Path] = []

    def add(self, keys: Array, counts: Array) -> None:
        """Adds counts of keys in any order."""
        self._runs.append(sum_by_key(keys, counts))
        # Keep each run at least twice as long as the next, so that a count is moved only a few times.
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            self._runs.append(_merge([self._runs.pop(), self._runs.pop()]))
        if self._folder is not None and sum(len(keys) for keys, _ in self._runs) > self._max_counts:
            self._spill(self._folder)

    def add_ends(self, edges: Edges) -> None:
        """Counts the nodes of edges in the groups `end(relation, side)`. Ignores weights."""
        keys = [end(edges.rel, side) * self._rows + getattr(edges, side) for side in SIDES]
        self.add(np.concatenate(keys), np.ones(2 * len(edges), np.int64))

    def in_memory(self) -> Frequencies:
        """All counts of a counter without a folder."""
        return Frequencies(*_merge(self._runs or [_NOTHING]), self._rows)

    def stored(self) -> StoredFrequencies:
        """All counts of a counter with a folder, in one file."""
        assert self._folder is not None
        self._spill(self._folder)
        path = self._folder / "all"
        with path.open("wb") as file:
            for keys, counts in _merge_sorted([_blocks(run) for run in self._files]):
                np.stack([keys, counts], 1).tofile(file)
        for run in self._files:
            run.unlink()
        return StoredFrequencies(path, self._rows)

    def _spill(self, folder: Path) -> None:
        if self._runs:
            path = folder / f"run-{len(self._files)}"
            np.stack(_merge(self._runs), 1).tofile(path)
            self._files.append(path)
            self._runs = []


def end(relation: Array, side: str) -> Array:
    """The group of the nodes on one side of a relation."""
    return 2 * relation + (side == "rhs")


def count_ends(chunks: Iterable[Edges], schema: Schema) -> Frequencies:
    """The number of edges of each node on each side of each relation (group `end(relation, side)`). Ignores weights.

    Needs memory for one chunk of edges and about three times the counts.
    """
    counter = Counter(max(schema.tables.values()))
    for edges in chunks:
        counter.add_ends(edges)
    return counter.in_memory()


def merge(parts: list[Frequencies]) -> Frequencies:
    """The sum of the counts of several parts of the edges."""
    total = _NOTHING
    for part in parts:
        total = _merge([total, (part.key, part.count)])
    return Frequencies(*total, parts[0].rows)


def sum_by_key(keys: Array, counts: Array) -> Run:
    """The distinct keys, ascending, and the sums of their counts."""
    order = keys.argsort(kind="stable")  # fast on a few sorted runs
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(counts, first) if len(first) else counts


def _merge(runs: list[Run]) -> Run:
    return sum_by_key(np.concatenate([keys for keys, _ in runs]), np.concatenate([counts for _, counts in runs]))


def _blocks(path: Path, begin: int = 0, end: int | None = None) -> Iterator[Run]:
    """The counts [begin, end) of a file, by default all."""
    with path.open("rb") as file:
        file.seek(16 * begin)
        left = sys.maxsize if end is None else end - begin
        while len(block := np.fromfile(file, np.int64, 2 * min(BLOCK, left))):
            left -= len(block) // 2
            yield block[::2], block[1::2]


def _merge_sorted(runs: list[Iterator[Run]]) -> Iterator[Run]:
    """Merges ascending runs in blocks, with one block of each in memory."""
    heads = [head for run in runs if (head := next(run, None)) is not None]
    while heads:
        last = min(keys[-1] for keys, _ in heads)
        parts = []
        for number, (keys, counts) in enumerate(heads):
            cut = int(np.searchsorted(keys, last, side="right"))
            parts.append((keys[:cut], counts[:cut]))
            heads[number] = keys[cut:], counts[cut:]
        yield _merge(parts)
        for number in reversed(range(len(heads))):
            if not len(heads[number][0]):
                following = next(runs[number], None)
                if following is None:
                    del heads[number], runs[number]
                else:
                    heads[number] = following
