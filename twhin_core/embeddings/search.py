"""The nodes nearest to one, and the place of an edge among all that could be in its stead. Exact, streaming."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from twhin_core.embeddings.sources import Exported, Trained
from twhin_core.errors import NotThere, UserError
from twhin_core.schema import Schema, Side
from twhin_core.vectors import top_k
from twhin_core.vectors.rows import Rows, blocks
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
    given = "lhs" if wanted == "rhs" else "rhs"
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


def suggest(name: str, known: Iterable[str]) -> str:
    """What was probably meant, or the first ones there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3) or difflib.get_close_matches(name.lower(), names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there are {', '.join(names[:10])}{more}"


def find_nearest(source: Exported | Trained, query: Query, position: int, k: int) -> tuple[list[float], list[int]]:
    """Scores and positions of the k best candidates for the node at `position`, itself left out; best first."""
    exclude = torch.tensor([position]) if query.candidates == query.table else None
    score = _score(source, query, position)
    scores, positions = top_k.top_k(score, 1, source.rows(query.candidates), k, exclude)
    return scores[0].tolist(), positions[0].tolist()


@dataclass(frozen=True)
class Place:
    """A node as the answer to a query."""

    score: float
    rank: float
    """1 for the best; among equals, the middle of their places."""
    candidates: int


@torch.no_grad()
def find_place(source: Exported | Trained, query: Query, position: int, answer: int) -> Place:
    """Where the node at `answer` stands among all candidates for the node at `position`, that one left out."""
    score, rows = _score(source, query, position), source.rows(query.candidates)
    block_rows = max(1, top_k.BLOCK_VALUES // rows.dim)
    own = _own_score(score, rows, block_rows, answer)
    higher = equal = 0
    left_out = position if query.candidates == query.table and position != answer else None
    for start, vectors in blocks(rows, block_rows):
        scores = score(vectors)[0]
        if left_out is not None and start <= left_out < start + len(scores):
            scores[left_out - start] = -torch.inf
        higher += int((scores > own).sum())
        equal += int((scores == own).sum())
    return Place(own, 1 + higher + (equal - 1) / 2, rows.size - (left_out is not None))


def _own_score(score: Score, rows: Rows, block_rows: int, answer: int) -> float:
    """The score of a node, from the same products that it is compared with: others may round otherwise."""
    start = answer - answer % block_rows
    return float(score(rows.read(start, min(start + block_rows, rows.size)))[0, answer - start])


def _score(source: Exported | Trained, query: Query, position: int) -> Score:
    given = source.rows(query.table).gather(np.array([position]))
    if query.rel is None:
        return similar(given)
    return answers(source.scorer(), query.side, query.rel, given)
