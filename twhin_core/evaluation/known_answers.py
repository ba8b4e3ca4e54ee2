"""The known answers of queries, which ranks are filtered by: collected from the edges of all splits, kept in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from twhin_core.data.edges import Edges
from twhin_core.data.files import EdgeFiles
from twhin_core.ranking.pair_files import PairFiles
from twhin_core.ranking.queries import REMOVED, FilteredQueries, HeldOut, Ints, Split, ends
from twhin_core.schema import Side

HELD, GONE = 1, 2
"""Marks of an answer: held out; removed (see `REMOVED`)."""
MARKS = 4


class QueryIndex:
    """Finds the edges that answer the queries of a side."""

    def __init__(self, held: HeldOut, rows: int) -> None:
        """`rows`: of the largest table."""
        self.side, self._rows = held.side, rows
        self._keys = held.rel[held.first] * rows + held.node[held.first]

    def find(self, edges: Edges) -> tuple[Ints, Ints]:
        """(query, answer) of each edge that answers one."""
        node, answer = ends(edges, self.side)
        keys = edges.rel * self._rows + node
        query = np.searchsorted(self._keys, keys)
        found = self._keys.take(query, mode="clip") == keys
        return query[found], answer[found]


def count(indices: Mapping[Side, QueryIndex], edges: Edges, counts: Mapping[Side, Ints]) -> None:
    """Adds the number of edges that answer each query to `counts`."""
    for side, index in indices.items():
        query, times = np.unique(index.find(edges)[0], return_counts=True)
        counts[side][query] += times


class KnownAnswers:
    """The known answers of the queries of a side, in a file per chunk of queries."""

    def __init__(self, folder: Path, held: HeldOut, chunks: Sequence[Ints]) -> None:
        """`folder` is created; `chunks`: the numbers of each chunk's queries, ascending."""
        self._held, self._chunks = held, chunks
        chunk_of = np.full(held.queries, -1)
        for number, queries in enumerate(chunks):
            chunk_of[queries] = number
        self._pairs = PairFiles(folder, chunk_of)

    def add(self, query: Ints, answer: Ints, mark: int) -> None:
        self._pairs.add(query, answer * MARKS + mark)

    def flush(self) -> None:
        """Ends the adding."""
        self._pairs.flush()

    def take(self, chunk: int) -> FilteredQueries:
        """The queries of a chunk with their known answers."""
        numbers = self._chunks[chunk]
        query, code = self._pairs.read(chunk)
        order = np.lexsort((code, query))
        query, answer, mark = query[order], code[order] // MARKS, code[order] % MARKS
        first = np.flatnonzero((np.diff(query, prepend=-1) != 0) | (np.diff(answer, prepend=-1) != 0))
        at = self._held.first[numbers]
        return FilteredQueries(
            side=self._held.side,
            rel=self._held.rel[at],
            node=self._held.node[at],
            query=np.searchsorted(numbers, query[first]),
            answer=answer[first],
            edges=np.add.reduceat((mark == HELD).astype(np.int64), first),
            removed=np.logical_or.reduceat(mark == GONE, first),
        )


def collect(
    splits: Mapping[str, EdgeFiles],
    evaluated: Split,
    indices: Mapping[Side, QueryIndex],
    known: Mapping[Side, KnownAnswers],
) -> None:
    """Fills `known` from the edges of all splits, reading each once."""
    for name, files in splits.items():
        mark = HELD if name == evaluated else GONE if name in REMOVED[evaluated] else 0
        for edges in files.chunks():
            for side, answers in known.items():
                answers.add(*indices[side].find(edges), mark)
    for answers in known.values():
        answers.flush()
