"""The nodes nearest to one, and the rank of an edge among all that could stand in its place. Exact, streaming."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twhin_core.embeddings.result import Vectors
from twhin_core.errors import NotThere, UserError, suggest
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors import top_k
from twhin_core.vectors.top_k import Score, answers, similar


@dataclass(frozen=True)
class Query:
    """A node of `table` is given, and nodes of `candidates` are asked for."""

    table: str
    candidates: str
    rel: int | None = None
    """The relation; None for what is near within the table."""
    side: Side = "rhs"
    """The end of the relation that is asked for."""


def make_query(schema: Schema, table: str, relation: str | None, side: Side | None) -> Query:
    """Without `side`, the rhs of the relation is asked for.

    Raises:
        UserError: there is no such relation, or it does not have the table at its other end; or a side of no relation.
    """
    if relation is None:
        if side is not None:
            raise UserError(f"side {side}: says which end of a relation is asked for; name the relation too")
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
    """The id of a relation. Raises NotThere if there is none; suggests near ones."""
    names = [relation.name for relation in schema.relations]
    if name not in names:
        raise NotThere(f"no relation named {name!r}; {suggest(name, names)}")
    return names.index(name)


def find_nearest(vectors: Vectors, query: Query, position: int, k: int) -> tuple[list[float], list[int]]:
    """Scores and positions of the k best candidates for the node at `position`, itself left out; best first."""
    import torch

    exclude = torch.tensor([position]) if query.candidates == query.table else None
    score = _score(vectors, query, position)
    scores, positions = top_k.top_k(score, 1, vectors.rows(query.candidates), k, exclude)
    return scores[0].tolist(), positions[0].tolist()


@dataclass(frozen=True)
class NodeRank:
    """A node as the answer to a query."""

    score: float
    rank: float
    """1 for the best; equal scores share the middle of their ranks."""
    candidates: int


def find_rank(vectors: Vectors, query: Query, position: int, answer: int) -> NodeRank:
    """The rank of the node at `answer` among all candidates for the node at `position`, which is left out itself."""
    import torch

    rows = vectors.rows(query.candidates)
    left_out = position if query.candidates == query.table and position != answer else None
    with torch.no_grad():
        score, rank = top_k.rank_of(_score(vectors, query, position), rows, answer, left_out)
    return NodeRank(score, rank, rows.size - (left_out is not None))


def _score(vectors: Vectors, query: Query, position: int) -> Score:
    node = vectors.rows(query.table).gather(np.array([position]))
    if query.rel is None:
        return similar(node)
    return answers(vectors.scorer(), query.side, query.rel, node)
