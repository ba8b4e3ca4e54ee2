"""The edges that tell whether a relation helps the target: a sample of fixed size, the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from twhin_core.config import Model
from twhin_core.data.edges import Edges
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError
from twhin_core.schema import SIDES, Schema

EDGES_PER_RELATION = 1000
"""The most edges of the target, and of each other relation."""
EDGES_OF_OTHERS = 16_000
"""The most edges of all other relations together, but for one of each."""

Ints = npt.NDArray[np.int64]


def number_of_target(model: Model, schema: Schema) -> int:
    """The number of the relation `model.target`. Raises UserError if the graph has no such relation."""
    assert model.target is not None
    if model.target not in schema.names:
        raise UserError(f"model.target: no relation named {model.target!r}; there are {', '.join(schema.names)}")
    return schema.names.index(model.target)


def choose(target: int, schema: Schema, train: EdgeFiles, validation: EdgeFiles, ranks: Ranks) -> tuple[Edges, Ints]:
    """Validation edges of the target and training edges of the others that share a node with them, at random.

    Each rank reads a part of the edges. A collective.

    Returns:
        The edges, and the number of training edges of each relation: [relations].

    Raises:
        UserError: the target has no validation edges, or no training edges.
    """
    relations, name = len(schema.relations), schema.names[target]
    wanted = np.zeros(relations, np.int64)
    wanted[target] = EDGES_PER_RELATION
    asked = _together(_sample(validation.chunks(ranks.rank, ranks.world_size), wanted), wanted, ranks)
    if not len(asked):
        raise UserError(
            f"model.target: there are no validation edges of {name}, which tell whether another relation helps; see "
            "prepare.split"
        )
    wanted[:] = max(1, min(EDGES_PER_RELATION, EDGES_OF_OTHERS // max(1, relations - 1)))
    wanted[target] = 0
    nodes, counts = _nodes(asked, schema), np.zeros(relations, np.int64)

    def near() -> Iterable[Edges]:
        for edges in train.chunks(ranks.rank, ranks.world_size):
            np.add(counts, np.bincount(edges.rel, minlength=relations), out=counts)
            yield edges.take(_touch(edges, nodes, schema))

    others = _together(_sample(near(), wanted), wanted, ranks)
    counts = np.sum(ranks.of_all(counts), 0)
    if not counts[target]:
        raise UserError(f"model.target: there are no training edges of {name}")
    return Edges.joined([asked, others]), counts


def _together(mine: Edges, wanted: Ints, ranks: Ranks) -> Edges:
    return mine if ranks.world_size == 1 else _sample(ranks.of_all(mine), wanted)


def _sample(chunks: Iterable[Edges], wanted: Ints) -> Edges:
    """At most `wanted[rel]` edges of each relation, whichever chunks they are in: those of the smallest hashes."""
    nothing = np.empty(0, np.int64)
    found = Edges(nothing, nothing, nothing, np.empty(0, np.float32))
    for edges in chunks:
        both = Edges.joined([found, edges.take(wanted[edges.rel] > 0)])
        order = np.lexsort((both.lhs, both.rhs, _hash(both), both.rel))
        rel = both.rel[order]
        found = both.take(order[np.arange(len(rel)) - np.searchsorted(rel, rel) < wanted[rel]])
    return found


def _hash(edges: Edges) -> npt.NDArray[np.uint64]:
    """A pseudorandom number of each edge, by the finalizer of MurmurHash3."""
    mixed = edges.lhs.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + edges.rhs.astype(np.uint64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(33)
    return mixed


def _nodes(edges: Edges, schema: Schema) -> list[Ints]:
    """The nodes of edges, by the position of their table."""
    found = []
    for table in range(len(schema.tables)):
        ends = [getattr(edges, side)[schema.table_numbers[side][edges.rel] == table] for side in SIDES]
        found.append(np.unique(np.concatenate(ends)))
    return found


def _touch(edges: Edges, nodes: list[Ints], schema: Schema) -> npt.NDArray[np.bool_]:
    """Which edges have one of `nodes` at an end."""
    touches = np.zeros(len(edges), np.bool_)
    for side in SIDES:
        table, end = schema.table_numbers[side][edges.rel], getattr(edges, side)
        for number, of_table in enumerate(nodes):
            if len(of_table):
                touches |= (table == number) & np.isin(end, of_table)
    return touches
