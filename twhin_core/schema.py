"""What the edges connect: tables of nodes, relations, and the two sides of an edge. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twhin_core.config import Relation

Side = Literal["lhs", "rhs"]
"""The end of an edge that is asked for: `rhs` for the query (lhs, rel, ?), `lhs` for (?, rel, rhs)."""
SIDES: tuple[Side, Side] = ("lhs", "rhs")
OTHER: dict[Side, Side] = {"lhs": "rhs", "rhs": "lhs"}
"""The side that a query's own node is on, by the side asked for."""


@dataclass(frozen=True)
class Schema:
    """The nodes and relations of a graph: rows a table, and relations in the order of their ids."""

    tables: dict[str, int]
    relations: list[Relation]

    def table_of(self, relation: int, side: str) -> str:
        """The table of the `lhs` or `rhs` of a relation id."""
        table: str = getattr(self.relations[relation], side)
        return table

    def table_number(self, relation: int, side: str) -> int:
        """The position of that table among the tables."""
        return list(self.tables).index(self.table_of(relation, side))
