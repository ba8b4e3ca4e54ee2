"""The schema of a graph: tables of nodes, relations, and the two sides of an edge. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from twhin_core.config import Model, Relation
from twhin_core.config.relation import negative_relations
from twhin_core.errors import UserError

Side = Literal["lhs", "rhs"]
"""The side that a query asks for: `rhs` for (lhs, rel, ?), `lhs` for (?, rel, rhs)."""
SIDES: tuple[Side, Side] = ("lhs", "rhs")
OTHER: dict[Side, Side] = {"lhs": "rhs", "rhs": "lhs"}
"""The side of a query's own node, by the side that it asks for."""


@dataclass(frozen=True)
class ContentShape:
    """The content of a table: the length of its vectors, the number of categories and of all their values."""

    dim: int
    categories: int
    values: int

    @property
    def width(self) -> int:
        """Of a row: the vector, then the numbers of the categories."""
        return self.dim + self.categories

    @property
    def stored_width(self) -> int:
        """Of a row in memory: the kernels need a multiple of 4."""
        return -(-self.width // 4) * 4


@dataclass(frozen=True)
class Schema:
    """The tables of a graph with their row counts, its relations in the order of their ids, and content by table."""

    tables: dict[str, int]
    relations: list[Relation]
    content: dict[str, ContentShape] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the relations."""
        return [relation.name for relation in self.relations]

    def table_of(self, relation: int, side: str) -> str:
        """The table of one side (`lhs` or `rhs`) of a relation id."""
        table: str = getattr(self.relations[relation], side)
        return table

    def side_between(self, relation: int, table: str, other: str, preferred: Side = "lhs") -> Side | None:
        """The end of a relation at which `table` is while `other` is at its other end; `preferred` if both ends fit."""
        for side in (preferred, OTHER[preferred]):
            if (self.table_of(relation, side), self.table_of(relation, OTHER[side])) == (table, other):
                return side
        return None

    @cached_property
    def table_numbers(self) -> dict[Side, npt.NDArray[np.int64]]:
        """By side: [relations] the position in `tables` of each relation's table."""
        number = {table: position for position, table in enumerate(self.tables)}
        return {side: np.array([number[getattr(of, side)] for of in self.relations], np.int64) for side in SIDES}

    @cached_property
    def rows(self) -> dict[Side, npt.NDArray[np.int64]]:
        """By side: [relations] the number of rows of each relation's table."""
        sizes = np.array(list(self.tables.values()), np.int64)
        return {side: sizes[numbers] for side, numbers in self.table_numbers.items()}

    @cached_property
    def most_rows(self) -> dict[Side, int]:
        """By side: the number of rows of the largest table there."""
        return {side: int(rows.max()) for side, rows in self.rows.items()}

    @property
    def rows_of_ends(self) -> npt.NDArray[np.int64]:
        """[2 · relations] the number of rows of the table at each `data.frequencies.end` of a relation."""
        return np.stack([self.rows[side] for side in SIDES], 1).ravel()

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """[2 · relations] the position of the table at each `data.frequencies.end` of a relation."""
        return np.stack([self.table_numbers[side] for side in SIDES], 1).ravel()


def check_prior(model: Model, edges: Mapping[str, int]) -> None:
    """Raises UserError if there is a prior and a relation has no training edges. `edges`: their number by relation."""
    never_trained = negative_relations(model.relations)
    empty = [name for name, count in edges.items() if not count and name not in never_trained]
    if model.prior is not None and empty:
        found = empty[0] if len(empty) == 1 else f"{empty[0]} and {len(empty) - 1} more"
        raise UserError(
            f"model.prior: no training edges, of which candidates could have a share, in relation {found}; remove the "
            "prior or the relation"
        )
