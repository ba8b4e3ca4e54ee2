"""What is left out of the answers to nodes: those that their known edges lead to, pairs from files, and themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from twhin_core import sizes
from twhin_core.config.recommend import Choice
from twhin_core.data.files import EdgeFiles
from twhin_core.embeddings.result import Vectors
from twhin_core.embeddings.search import Query, relation_named
from twhin_core.errors import UserError
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors.ids import Ints


class Nodes(Protocol):
    """U nodes of a table with a number each."""

    @property
    def row(self) -> Ints:
        """[U] their rows, in the order of their numbers."""

    def numbers(self, rows: Ints) -> Ints:
        """The number of the node at each of some rows of the table, or -1."""


@dataclass(frozen=True)
class OneNode:
    """A node with the number 0."""

    at: int
    """Its row."""

    @property
    def row(self) -> Ints:
        return np.array([self.at])

    def numbers(self, rows: Ints) -> Ints:
        """As `Nodes.numbers`."""
        return np.where(rows == self.at, 0, -1)


@dataclass(frozen=True)
class Numbered:
    """Many nodes."""

    row: Ints
    """[U] their rows."""
    number: Ints
    """[N] the number of each row of the table, or -1."""

    def numbers(self, rows: Ints) -> Ints:
        """As `Nodes.numbers`."""
        numbers: Ints = self.number[rows]
        return numbers


def numbered(row: Ints, rows: int) -> Numbered:
    """Nodes by their distinct rows in a table of `rows`: the first has the number 0."""
    number = np.full(rows, -1)
    number[row] = np.arange(len(row))
    return Numbered(row, number)


def known_sides(schema: Schema, query: Query, relations: Sequence[str], key: str = "exclude") -> dict[int, Side]:
    """By relation, the side of a query's node in the edges that lead from it to candidates.

    Args:
        key: what `relations` are the value of, for messages.

    Raises:
        UserError: there is no such relation, or it leads between other tables.
    """
    sides = dict[int, Side]()
    for name in relations:
        rel = relation_named(schema, name, is_asked=False)
        side = schema.side_between(rel, query.table, query.candidates, OTHER[query.side])
        if side is None:
            raise UserError(f"{key}: relation {name} does not lead between tables {query.table} and {query.candidates}")
        sides[rel] = side
    return sides


def left_out(
    source: Vectors,
    query: Query,
    sides: Mapping[int, Side],
    choice: Choice,
    splits: Iterable[EdgeFiles],
    nodes: Nodes,
    folder: Path,
) -> Iterator[tuple[Ints, Ints]]:
    """(node's number, candidate's row) of all that is left out of the answers to a query for some nodes.

    Args:
        sides: of the relations whose edges are known, as `known_sides` returns them.
        splits: the edges that are known.
        folder: for files.

    Raises:
        UserError: as `given_pairs`.
    """
    if sides:
        yield from known_pairs(splits, sides, nodes)
    if choice.exclude_edges is not None:
        from twhin_core.embeddings.pairs import given_pairs  # imports DuckDB

        memory = sizes.in_bytes(source.config.evaluation.memory_limit) // 4
        for row, candidate in given_pairs(source, query, choice.exclude_edges, folder, memory):
            number = nodes.numbers(row)
            yield number[number >= 0], candidate[number >= 0]
    if query.table == query.candidates:  # no node answers for itself
        yield np.arange(len(nodes.row)), nodes.row


def known_pairs(splits: Iterable[EdgeFiles], sides: Mapping[int, Side], nodes: Nodes) -> Iterator[tuple[Ints, Ints]]:
    """(node's number, candidate's row) of the edges of some relations, in blocks.

    Args:
        sides: the end at which the nodes are, by relation.
    """
    for files in splits:
        for edges in files.chunks():
            for rel, side in sides.items():
                of = edges.take(edges.rel == rel)
                number = nodes.numbers(getattr(of, side))
                yield number[number >= 0], getattr(of, OTHER[side])[number >= 0]
