"""How often nodes are at the ends of training edges, in files: for more nodes than memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import Array, added, end
from twhin_core.schema import SIDES, Schema

BLOCK = 1 << 20
"""Counts that are read at once, 16 bytes each."""


class NodeCounts:
    """Counts of the (group, node) pairs that occur, in ascending order."""

    def __init__(self, path: Path, rows: int) -> None:
        """`rows`: of the largest table."""
        self._path, self.rows = path, rows

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """(group · rows + node, count) of all, some at a time."""
        yield from _blocks(self._path)

    def of(self, group: Array, node: Array) -> Array:
        """How often each node occurs in its group; 0 where it does not."""
        keys, place = np.unique(group * self.rows + node, return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        for key, count in self.blocks():
            inside = slice(*np.searchsorted(keys, [key[0], key[-1] + 1]))
            at = np.searchsorted(key, keys[inside])
            counts[inside] = np.where(key[at] == keys[inside], count[at], 0)
        return counts[place]

    def of_group(self, group: int) -> Iterator[tuple[Array, Array]]:
        """(node, count) of all nodes of a group in ascending order, some at a time."""
        for keys, counts in self.blocks():
            inside = slice(*np.searchsorted(keys, [group * self.rows, (group + 1) * self.rows]))
            yield keys[inside] - group * self.rows, counts[inside]


class Counter:
    """Adds up counts; those that do not fit into `memory` bytes go to files in `folder`, a new one."""

    def __init__(self, rows: int, folder: Path, memory: int) -> None:
        folder.mkdir()
        self._rows, self._folder = rows, folder
        self._most = max(memory // 64, BLOCK)  # merging takes four times the 16 bytes of a count
        self._runs: list[tuple[Array, Array]] = []
        self._files: list[Path] = []

    def add(self, keys: Array, counts: Array) -> None:
        """Counts of group · rows + node, in any order."""
        self._runs.append(added(keys, counts))
        # Runs of at least twice the length of the next: so each count is moved only a few times.
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            self._runs.append(_together([self._runs.pop(), self._runs.pop()]))
        if sum(len(keys) for keys, _ in self._runs) > self._most:
            self._spill()

    def finish(self) -> NodeCounts:
        """All counts, in one file."""
        self._spill()
        path = self._folder / "all"
        with path.open("wb") as file:
            for keys, counts in _merged([_blocks(run) for run in self._files]):
                np.stack([keys, counts], 1).tofile(file)
        for run in self._files:
            run.unlink()
        return NodeCounts(path, self._rows)

    def _spill(self) -> None:
        if self._runs:
            path = self._folder / f"run-{len(self._files)}"
            np.stack(_together(self._runs), 1).tofile(path)
            self._files.append(path)
            self._runs = []


def _blocks(path: Path) -> Iterator[tuple[Array, Array]]:
    with path.open("rb") as file:
        while len(block := np.fromfile(file, np.int64, 2 * BLOCK)):
            yield block[::2], block[1::2]


def _merged(runs: list[Iterator[tuple[Array, Array]]]) -> Iterator[tuple[Array, Array]]:
    """The counts of ascending runs, added up, in ascending order; a block of each is in memory."""
    heads = [head for run in runs if (head := next(run, None)) is not None]
    while heads:
        last = min(keys[-1] for keys, _ in heads)
        parts = []
        for number, (keys, counts) in enumerate(heads):
            cut = int(np.searchsorted(keys, last, side="right"))
            parts.append((keys[:cut], counts[:cut]))
            heads[number] = keys[cut:], counts[cut:]
        yield _together(parts)
        for number in reversed(range(len(heads))):
            if not len(heads[number][0]):
                following = next(runs[number], None)
                if following is None:
                    del heads[number], runs[number]
                else:
                    heads[number] = following


def _together(runs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    return added(np.concatenate([keys for keys, _ in runs]), np.concatenate([counts for _, counts in runs]))


def add_ends(counter: Counter, edges: Edges, rows: int) -> None:
    """Counts the nodes of some edges by relation and side: their group is `end(relation, side)`."""
    keys = [end(edges.rel, side) * rows + node for side, node in (("lhs", edges.lhs), ("rhs", edges.rhs))]
    counter.add(np.concatenate(keys), np.ones(2 * len(edges), np.int64))


def degrees(ends: NodeCounts, schema: Schema, folder: Path, memory: int) -> NodeCounts:
    """The training edges of each node, whatever the relation and side: its group is the number of its table."""
    place = {table: number for number, table in enumerate(schema.tables)}
    table = [place[schema.table_of(rel, side)] for rel in range(len(schema.relations)) for side in SIDES]
    counter = Counter(ends.rows, folder, memory)
    for keys, counts in ends.blocks():
        group, node = np.divmod(keys, ends.rows)
        counter.add(np.array(table)[group] * ends.rows + node, counts)
    return counter.finish()
