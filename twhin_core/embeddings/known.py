"""The nodes that a node is known to have edges to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twhin_core.data.splits import has_split, open_split
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import Query, relation_named
from twhin_core.errors import UserError
from twhin_core.graph.manifest import SPLITS
from twhin_core.ranking.queries import Ints
from twhin_core.schema import OTHER, Side
from twhin_core.vectors.ids import Ids


def known_answers(result: Result, query: Query, position: int, relations: Sequence[str]) -> Ints:
    """Positions of the candidates of a query that edges of some relations, of all splits, lead to.

    Reads all edges.

    Args:
        position: of the query's node.

    Raises:
        UserError: there is no such relation, or it leads between other tables.
    """
    schema, sides = result.schema, dict[int, Side]()
    for name in relations:
        rel = relation_named(schema, name)
        side = schema.side_between(rel, query.table, query.candidates, OTHER[query.side])
        if side is None:
            raise UserError(
                f"exclude: relation {name} does not lead between tables {query.table} and {query.candidates}"
            )
        sides[rel] = side
    ids = result.scored.ids(query.table)
    row = position if ids.index is None else int(ids.index[position])
    found = [np.empty(0, np.int64)]
    for split in SPLITS if sides else ():
        if split != "train" and not has_split(result.config, result.root, split):
            continue
        for edges in open_split(result.config, result.root, schema, split).chunks():
            for rel, side in sides.items():
                is_own = (edges.rel == rel) & (getattr(edges, side) == row)
                found.append(getattr(edges, OTHER[side])[is_own])
    return _positions(result.scored.ids(query.candidates), np.unique(np.concatenate(found)))


def _positions(ids: Ids, rows: Ints) -> Ints:
    """The positions of those rows that have an id."""
    if ids.index is None:
        return rows
    place = np.searchsorted(ids.index, rows)
    kept: Ints = place[ids.index.take(place, mode="clip") == rows]
    return kept
