"""What is known of queries: collected from the edges of all splits, which are streamed, and kept in a file a chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from twhin_core.data.edges import Edges
from twhin_core.data.files import EdgeFiles
from twhin_core.evaluation.held_out import HeldOut
from twhin_core.evaluation.queries import REMOVED, Ints, Queries, Split
from twhin_core.schema import Side

HELD, GONE = 1, 2
"""Marks of an answer: held out; removed (see `REMOVED`)."""
MARKS = 4

PAIRS_AT_ONCE = 1 << 20
"""(query, answer) that are kept in memory before they go to files, 16 bytes each."""


class Asked:
    """Finds the edges that answer the queries of a side."""

    def __init__(self, held: HeldOut, rows: int) -> None:
        """`rows`: of the largest table."""
        self.side, self._rows = held.side, rows
        self._keys = held.rel[held.first] * rows + held.given[held.first]

    def find(self, edges: Edges) -> tuple[Ints, Ints]:
        """(query, answer) of each edge that answers one."""
        given, answer = (edges.lhs, edges.rhs) if self.side == "rhs" else (edges.rhs, edges.lhs)
        keys = edges.rel * self._rows + given
        query = np.searchsorted(self._keys, keys)
        found = self._keys.take(query, mode="clip") == keys
        return query[found], answer[found]


def count(asked: Mapping[Side, Asked], edges: Edges, counts: Mapping[Side, Ints]) -> None:
    """Adds up, for each side and query, the edges that answer it."""
    for side, of in asked.items():
        query, times = np.unique(of.find(edges)[0], return_counts=True)
        counts[side][query] += times


class Known:
    """The known answers of chunks of queries of one side: files of (query, answer · MARKS + mark)."""

    def __init__(self, folder: Path, held: HeldOut, chunks: Sequence[Ints]) -> None:
        """`chunks`: the numbers of the queries of each chunk, ascending."""
        self._folder, self._held, self._chunks = folder, held, chunks
        folder.mkdir()

    def path(self, chunk: int) -> Path:
        return self._folder / str(chunk)

    def writer(self) -> _Writer:
        return _Writer(self, self._held.queries, self._chunks)

    def take(self, chunk: int) -> Queries:
        """The queries of a chunk, with all their known answers."""
        numbers = self._chunks[chunk]
        query, code = np.fromfile(self.path(chunk), np.int64).reshape(-1, 2).T
        order = np.lexsort((code, query))
        query, answer, mark = query[order], code[order] // MARKS, code[order] % MARKS
        first = np.flatnonzero((np.diff(query, prepend=-1) != 0) | (np.diff(answer, prepend=-1) != 0))
        query = np.searchsorted(numbers, query[first])
        at = self._held.first[numbers]
        return Queries(
            side=self._held.side,
            rel=self._held.rel[at],
            given=self._held.given[at],
            offsets=np.searchsorted(query, np.arange(len(numbers) + 1)),
            query=query,
            answer=answer[first],
            edges=np.add.reduceat((mark == HELD).astype(np.int64), first),
            removed=np.logical_or.reduceat(mark == GONE, first),
        )


class _Writer:
    """Sorts what is known of the queries of a side into the files of their chunks."""

    def __init__(self, known: Known, queries: int, chunks: Sequence[Ints]) -> None:
        self._known, self._waiting, self._pairs = known, 0, [np.empty((0, 2), np.int64)]
        self._chunk = np.full(queries, -1)
        for number, of in enumerate(chunks):
            self._chunk[of] = number

    def add(self, query: Ints, answer: Ints, mark: int) -> None:
        mine = self._chunk[query] >= 0
        self._pairs.append(np.stack([query[mine], answer[mine] * MARKS + mark], 1))
        self._waiting += len(self._pairs[-1])
        if self._waiting >= PAIRS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        pairs = np.concatenate(self._pairs)
        chunk = self._chunk[pairs[:, 0]]
        order = np.argsort(chunk, kind="stable")
        pairs, chunk = pairs[order], chunk[order]
        for number in np.unique(chunk).tolist():
            first, last = np.searchsorted(chunk, [number, number + 1])
            with self._known.path(number).open("ab") as file:
                pairs[first:last].tofile(file)
        self._waiting, self._pairs = 0, [np.empty((0, 2), np.int64)]


def collect(
    splits: Mapping[str, EdgeFiles], evaluated: Split, asked: Mapping[Side, Asked], known: Mapping[Side, Known]
) -> None:
    """Fills the files of `known` from the edges of all splits, reading each once."""
    writers = {side: of.writer() for side, of in known.items()}
    for name, files in splits.items():
        mark = HELD if name == evaluated else GONE if name in REMOVED[evaluated] else 0
        for edges in files.chunks():
            for side, writer in writers.items():
                writer.add(*asked[side].find(edges), mark)
    for writer in writers.values():
        writer.flush()
