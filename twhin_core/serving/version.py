"""A run, or a version of a series, that is held in order to be served."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from twhin_core.data.splits import open_known
from twhin_core.embeddings.index import open_index, read_index, search_index
from twhin_core.embeddings.known import known_sides
from twhin_core.embeddings.result import Result, open_result
from twhin_core.embeddings.search import Among, Query, exact_words, find_nearest, make_query, with_prior
from twhin_core.errors import NotFound, UserError, suggest
from twhin_core.export import faiss_library
from twhin_core.progress import log
from twhin_core.published import find_root, is_version
from twhin_core.schema import Side
from twhin_core.scratch import scratch
from twhin_core.series.reading import Reading
from twhin_core.serving.chosen import Chosen, read_chosen
from twhin_core.serving.fold_in import FoldIn
from twhin_core.serving.vectors import HeldVectors
from twhin_core.vectors.adjacency import Adjacency, End, read_adjacencies
from twhin_core.vectors.ids import find_positions
from twhin_core.vectors.rows import Ints


@dataclass(frozen=True)
class Question:
    """Asks for the `count` best candidates of a node."""

    query: Query
    count: int
    by_index: bool
    is_chosen: bool = False
    """Whether the candidates are those that the section `recommend` chooses."""


class Node(NamedTuple):
    """What a question is about."""

    vector: Tensor
    """[dim]"""
    position: int
    """In its table; `NEW` for a node that is not there."""


NEW = -1

Found = tuple[list[float], Ints]
"""The scores [n] and positions [n] of candidates, best first."""


class Version:
    """What is read once, and answers from it. `search` may run in one thread while others call the rest."""

    def __init__(
        self,
        result: Result,
        vectors: HeldVectors,
        known: dict[End, Adjacency],
        indices: dict[str, Any],
        chosen: dict[int, Chosen],
        reading: Reading | None,
    ) -> None:
        """
        Args:
            indices: by table, as `read_index` returns them.
            chosen: by relation, as `read_chosen` returns them.
            reading: keeps the version from being removed.
        """
        self.result, self.schema, self.vectors = result, result.schema, vectors
        self.name = result.root.rstrip("/").rsplit("/", 1)[-1] if is_version(result.root) else None
        self._known, self._indices, self.chosen, self._reading = known, indices, chosen, reading
        self._lock = threading.Lock()
        self.fold_in = FoldIn(result, vectors)

    @property
    def step(self) -> int:
        """The training step of the vectors."""
        return self.result.vectors.step

    def close(self) -> None:
        """Lets the version be removed from its series."""
        if self._reading is not None:
            self._reading.close()

    def query(self, table: str, relation: str | None, side: Side | None, prior: float | None = None) -> Query:
        """Raises UserError if there is no such table, relation or prior, or the relation is not of this table."""
        tables = self.result.vectors.tables
        if table not in tables:
            raise NotFound(f"no table named {table!r}; {suggest(table, tables)}")
        return with_prior(self.result, make_query(self.schema, table, relation, side), prior)

    def uses_index(self, query: Query, wanted: bool | None) -> bool:
        """Whether the exported index answers. By default, it does where it ranks as an exact search would.

        Raises:
            UserError: the index is `wanted`, and there is none.
        """
        if wanted is False or (wanted is None and query.candidates not in self._indices):
            return False
        entry = open_index(self.result, query)
        if wanted:
            if query.candidates not in self._indices:
                faiss_library.load()  # raises: it is not installed
            return True
        if query.rel is None:
            return entry.measure == "cosine"
        return entry.is_model_score and self.vectors.scorer().shares_candidates(query.side)

    def words(self, query: Query, by_index: bool) -> str:
        """What answers are ranked by, as `twhin neighbors` says it."""
        return open_index(self.result, query).words if by_index else exact_words(self.result, query)

    def candidates(self, query: Query, is_chosen: bool = False) -> int:
        """How many nodes may be an answer, at most."""
        among = self._among(Question(query, 0, by_index=False, is_chosen=is_chosen))
        if among is not None:
            return len(among.positions)
        return self.vectors.ids(query.candidates).size - (query.candidates == query.table)

    def _among(self, question: Question) -> Among | None:
        rel = question.query.rel
        return self.chosen[rel].among if question.is_chosen and rel is not None else None

    def nodes(self, table: str, positions: Ints) -> list[Node]:
        """The nodes of a table at some positions."""
        return list(map(Node, self.vectors.rows(table).gather(positions), positions.tolist()))

    def search(self, question: Question, nodes: Sequence[Node]) -> list[Found]:
        """The best candidates of each node, without the node itself.

        Raises:
            UserError: the index cannot answer for this side, or scores cannot be computed.
        """
        query, given = question.query, torch.stack([node.vector for node in nodes])
        if not question.by_index:
            positions = np.array([node.position for node in nodes], np.int64)
            return find_nearest(self.vectors, query, given, positions, question.count, self._among(question))
        entry, is_own_table = open_index(self.result, query), query.candidates == query.table
        # A search of a graph or of lists takes less time than waking other threads up, and other cores have requests
        # to read. The setting is this thread's own.
        faiss_library.load().omp_set_num_threads(torch.get_num_threads() if entry.kind == "flat" else 1)
        values, rows = search_index(
            self._indices[query.candidates], entry, self.result, query, given, question.count + is_own_table,
            None if query.rel is None else self.vectors.scorer(),
        )  # fmt: skip
        index, answers = self.vectors.ids(query.candidates).index, list[Found]()
        for node, of_scores, of_rows in zip(nodes, values, rows, strict=True):
            is_found = of_rows >= 0
            found_positions = find_positions(index, of_rows[is_found])[0]
            kept = found_positions != node.position if is_own_table else slice(None)
            answers.append((of_scores[is_found][kept].tolist(), found_positions[kept]))
        return answers

    def known_ends(self, query: Query, relations: Sequence[str]) -> list[End]:
        """What `known` takes to leave out. Raises UserError as `known_sides`."""
        return list(known_sides(self.schema, query, relations).items())

    def knows(self, ends: Iterable[End]) -> bool:
        """Whether `known` answers at once."""
        return all(end in self._known for end in ends)

    def read_known(self, ends: Sequence[End]) -> None:
        """Reads the known edges that have not been read yet, by going through all edges."""
        with self._lock, scratch("serve") as folder:
            missing = [end for end in ends if end not in self._known]
            if missing:
                splits = open_known(self.result.config, self.result.root, self.schema)
                self._known |= read_adjacencies(splits, self.schema, missing, folder)

    def known(self, query: Query, node: int, ends: Sequence[End], chosen: Chosen | None = None) -> Ints:
        """Positions of the candidates that known edges of the node at a position lead to. See `read_known`.

        Args:
            chosen: also leaves out these pairs.
        """
        if node == NEW:
            return np.empty(0, np.int64)
        index = self.vectors.ids(query.table).index
        row = node if index is None else int(index[node])
        given = np.empty(0, np.int64) if chosen is None else chosen.left_out(row)
        rows = np.concatenate([given, *(self._known[end].of(row) for end in ends)])
        positions, is_named = find_positions(self.vectors.ids(query.candidates).index, rows)
        return positions[is_named]


def load(path: str) -> Version:
    """Reads the run at `path`, or the published version of the series there.

    Holds its ids, known edges' counts and given pairs in memory, and maps its vectors, known edges and indices from
    files.

    Raises:
        StorageRefused: there is no room for temporary files.
        UserError: there is no run, no version is published, a file is broken, or as `read_chosen`.
    """
    root = find_root(path)
    reading = Reading(root) if is_version(root) else None
    result = open_result(root)
    with scratch("serve") as folder:
        vectors = HeldVectors(result.config, result.schema, result.scored, folder)
        chosen = read_chosen(result, vectors, folder)
    version = Version(result, vectors, {}, _read_indices(result), chosen, reading)
    version.read_known([(rel, "lhs") for rel in range(len(result.schema.relations))])
    with suppress(UserError):  # of normalized vectors alone: cosines need no scorer
        vectors.scorer()
    return version


def _read_indices(result: Result) -> dict[str, Any]:
    formats = {} if result.manifest is None else result.manifest.formats
    tables = [table for table in formats.get("faiss", {}) if table in result.schema.tables]
    if not tables:
        return {}
    try:
        faiss_library.load()
    except UserError:
        log.warning("serve: answers are exact, because the library of the exported indices is not installed (faiss)")
        return {}
    return {table: read_index(result, open_index(result, Query(table, table))) for table in tables}
