"""Exact neighbors of a node, and ranks of an edge's ends. Streams the vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twhin_core.embeddings.result import Vectors
from twhin_core.errors import NotFound, UserError, suggest
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors import top_k
from twhin_core.vectors.rows import Rows
from twhin_core.vectors.top_k import Score, answers, similar


@dataclass(frozen=True)
class Query:
    """Asks for nodes of the table `candidates`, given a node of `table`."""

    table: str
    candidates: str
    rel: int | None = None
    """The id of the relation; None for neighbors within the table."""
    side: Side = "rhs"
    """The end of the relation that is asked for."""


def make_query(schema: Schema, table: str, relation: str | None, side: Side | None) -> Query:
    """A query by names. `side` defaults to the rhs.

    Raises:
        UserError: there is no such relation, the table is not at its given end, or `side` is set without a relation.
    """
    if relation is None:
        if side is not None:
            raise UserError(f"side {side} selects an end of a relation; name the relation too")
        return Query(table, table)
    rel = relation_named(schema, relation)
    wanted: Side = side or "rhs"
    given = OTHER[wanted]
    if schema.table_of(rel, given) != table:
        lhs, rhs = schema.table_of(rel, "lhs"), schema.table_of(rel, "rhs")
        verb = "start" if given == "lhs" else "end"
        hint = f"; side {given} asks for its other end" if schema.table_of(rel, wanted) == table else ""
        raise UserError(f"relation {relation} does not {verb} at table {table}: it leads from {lhs} to {rhs}{hint}")
    return Query(table, schema.table_of(rel, wanted), rel, wanted)


def relation_named(schema: Schema, name: str) -> int:
    """The id of a relation. Raises NotFound, with suggestions, if there is no such relation."""
    names = [relation.name for relation in schema.relations]
    if name not in names:
        raise NotFound(f"no relation named {name!r}; {suggest(name, names)}")
    return names.index(name)


def find_nearest(vectors: Vectors, query: Query, position: int, k: int) -> tuple[list[float], list[int]]:
    """Scores and positions of the k best candidates for the node at `position`, best first, without the node itself."""
    import torch

    exclude = torch.tensor([position]) if query.candidates == query.table else None
    score = _score(vectors, query, position)
    scores, positions = top_k.top_k(score, 1, _candidates(vectors, query), k, exclude)
    return scores[0].tolist(), positions[0].tolist()


@dataclass(frozen=True)
class NodeRank:
    """The score and rank of a node as the answer to a query."""

    score: float
    rank: float
    """1 is the best. Equal scores share their mean rank."""
    candidates: int
    """The number of nodes that were ranked."""


def find_rank(vectors: Vectors, query: Query, position: int, answer: int) -> NodeRank:
    """The rank of the node at `answer` among all candidates for the node at `position`, without that node itself."""
    import torch

    rows = _candidates(vectors, query)
    left_out = position if query.candidates == query.table and position != answer else None
    with torch.no_grad():
        score, rank = top_k.rank_of(_score(vectors, query, position), rows, answer, left_out)
    return NodeRank(score, rank, rows.size - (left_out is not None))


def _candidates(vectors: Vectors, query: Query) -> Rows:
    return vectors.rows(query.candidates) if query.rel is None else vectors.candidates(query.side, query.rel)


def _score(vectors: Vectors, query: Query, position: int) -> Score:
    node = vectors.rows(query.table).gather(np.array([position]))
    if query.rel is None:
        return similar(node)
    return answers(vectors.scorer(), query.side, query.rel, node)
