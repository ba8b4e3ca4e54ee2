"""The nodes that a node is known to have edges to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twhin_core.data.splits import open_splits
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import Query, relation_named
from twhin_core.errors import UserError
from twhin_core.ranking.queries import Ints
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors.ids import find_positions


def known_sides(schema: Schema, query: Query, relations: Sequence[str], key: str = "exclude") -> dict[int, Side]:
    """By relation, the side of a query's node in the edges that lead from it to candidates.

    Args:
        key: what `relations` are the value of, for messages.

    Raises:
        UserError: there is no such relation, or it leads between other tables.
    """
    sides = dict[int, Side]()
    for name in relations:
        rel = relation_named(schema, name)
        side = schema.side_between(rel, query.table, query.candidates, OTHER[query.side])
        if side is None:
            raise UserError(f"{key}: relation {name} does not lead between tables {query.table} and {query.candidates}")
        sides[rel] = side
    return sides


def known_answers(result: Result, query: Query, position: int, relations: Sequence[str]) -> Ints:
    """Positions of the candidates of a query that edges of some relations, of all splits, lead to.

    Reads all edges.

    Args:
        position: of the query's node.

    Raises:
        UserError: there is no such relation, or it leads between other tables.
    """
    schema, sides = result.schema, known_sides(result.schema, query, relations)
    ids = result.scored.ids(query.table)
    row = position if ids.index is None else int(ids.index[position])
    found = [np.empty(0, np.int64)]
    splits = open_splits(result.config, result.root, schema, ["train"]) if sides else {}
    for files in splits.values():
        for edges in files.chunks():
            for rel, side in sides.items():
                is_own = (edges.rel == rel) & (getattr(edges, side) == row)
                found.append(getattr(edges, OTHER[side])[is_own])
    positions, is_named = find_positions(result.scored.ids(query.candidates).index, np.unique(np.concatenate(found)))
    return positions[is_named]
