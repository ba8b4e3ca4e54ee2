"""Vectors of nodes that were not trained, from edges that come with a request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import relation_named
from twhin_core.errors import NotFound, suggest
from twhin_core.inductive.edges import Block
from twhin_core.inductive.embed import Embedder, Method, Trained
from twhin_core.schema import OTHER, SIDES
from twhin_core.scratch import scratch
from twhin_core.serving.vectors import HeldVectors
from twhin_core.vectors.degrees import read_degrees
from twhin_core.vectors.rows import Ints


class GivenEdge(NamedTuple):
    """An edge by the ids of its ends and the name of its relation."""

    lhs: str
    relation: str
    rhs: str
    weight: float


class Folded(NamedTuple):
    """A node that was embedded."""

    id: str
    edges: int
    """How many of its edges were used."""
    embedding: list[float]


class FoldIn:
    """Embeds as `twhin_core.inductive.embed` does, without reading the run again for each request."""

    def __init__(self, result: Result, vectors: HeldVectors) -> None:
        self._result, self._schema, self._vectors = result, result.schema, vectors
        self._degrees: dict[str, Ints | None] = {}
        self._embedders: dict[str, Embedder] = {}
        self._lock = threading.Lock()

    def embed(
        self, table: str, edges: Sequence[GivenEdge], method: Method, with_known: bool
    ) -> tuple[list[Folded], list[str]]:
        """The nodes of `table` that have an edge to a trained node, sorted by id; and ids that are not trained nodes.

        Args:
            with_known: whether to embed trained nodes too.

        Raises:
            UserError: there is no such table or relation, or the run's training edges are gone.
        """
        if table not in self._schema.tables:
            raise NotFound(f"no table named {table!r}; {suggest(table, self._schema.tables)}")
        with self._lock:
            ends, unknown = self._ends(table, edges, with_known)
            if not ends:
                return [], unknown
            block = _block(ends)
            if table not in self._embedders:
                run = Trained(self._result.config, self._result.root, self._schema, self._vectors)
                self._embedders[table] = Embedder(run, table)
            embeddings = self._embedders[table].embed(block, method).tolist()
        counts = np.bincount(block.node, minlength=len(block)).tolist()
        return list(map(Folded, block.names.to_pylist(), counts, embeddings)), unknown

    def _ends(self, table: str, edges: Sequence[GivenEdge], with_known: bool) -> tuple[list[_End], list[str]]:
        """The ends of edges that are nodes to embed, with a trained node at the other end."""
        ends, unknown = list[_End](), dict[str, None]()
        for edge in edges:
            rel = relation_named(self._schema, edge.relation)
            for side in SIDES:
                if self._schema.table_of(rel, side) != table:
                    continue
                node, other = (edge.lhs, edge.rhs) if side == "lhs" else (edge.rhs, edge.lhs)
                if not with_known and self._find_trained(table, node) is not None:
                    continue
                position = self._find_trained(self._schema.table_of(rel, OTHER[side]), other)
                if position is None:
                    unknown[other] = None
                    continue
                weight = edge.weight * self._schema.relations[rel].weight
                ends.append(_End(node, rel, side == "lhs", position, weight))
        return sorted(ends), list(unknown)

    def _find_trained(self, table: str, name: str) -> int | None:
        """The position of a node with training edges."""
        ids = self._vectors.ids(table)
        position = ids.find(name)
        if position is None:
            return None
        degrees = self._degrees_of(table)
        row = position if ids.index is None else int(ids.index[position])
        return position if degrees is None or degrees[row] > 0 else None

    def _degrees_of(self, table: str) -> Ints | None:
        if table not in self._degrees:
            result = self._result
            with scratch("serve") as folder:
                self._degrees[table] = read_degrees(
                    result.config, result.root, table, self._schema.tables[table], folder / "degrees"
                )
        return self._degrees[table]


class _End(NamedTuple):
    """As a row of `Block`."""

    node: str
    rel: int
    asks_rhs: bool
    other: int
    weight: float


def _block(ends: Sequence[_End]) -> Block:
    names = pa.array([end.node for end in ends]).dictionary_encode()
    _, rel, asks_rhs, other, weight = zip(*ends, strict=True)
    return Block(
        names.dictionary, np.asarray(names.indices).astype(np.int64), np.array(rel, np.int64), np.array(asks_rhs),
        np.array(other, np.int64), np.array(weight, np.float32),
    )  # fmt: skip
