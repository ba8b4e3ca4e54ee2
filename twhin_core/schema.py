"""The schema of a graph: tables of nodes, relations, and the two sides of an edge. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twhin_core.config import Relation

Side = Literal["lhs", "rhs"]
"""The side that a query asks for: `rhs` for (lhs, rel, ?), `lhs` for (?, rel, rhs)."""
SIDES: tuple[Side, Side] = ("lhs", "rhs")
OTHER: dict[Side, Side] = {"lhs": "rhs", "rhs": "lhs"}
"""The side of a query's own node, by the side that it asks for."""


@dataclass(frozen=True)
class Schema:
    """The tables of a graph with their row counts, and its relations in the order of their ids."""

    tables: dict[str, int]
    relations: list[Relation]

    def table_of(self, relation: int, side: str) -> str:
        """The table of one side (`lhs` or `rhs`) of a relation id."""
        table: str = getattr(self.relations[relation], side)
        return table

    def table_number(self, relation: int, side: str) -> int:
        """The position of that table in `tables`."""
        return list(self.tables).index(self.table_of(relation, side))
