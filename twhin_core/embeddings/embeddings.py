"""All that a run has learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from twhin_core.config import Relation
from twhin_core.embeddings.result import Result, open_result
from twhin_core.embeddings.search import NodeRank, Query, find_rank, relation_named
from twhin_core.embeddings.table import TableEmbeddings
from twhin_core.errors import NotThere, suggest
from twhin_core.vectors.ids import find_or_refuse


class EdgeScore(NamedTuple):
    """An edge as the answer to each of its two questions."""

    rhs: NodeRank
    """The rhs among all that the lhs could have."""
    lhs: NodeRank
    """The lhs among all that could have the rhs."""


class Embeddings(Mapping[str, TableEmbeddings]):
    """The embeddings of a run, by table: `Embeddings.load(run_root)["user"]["id"]`."""

    def __init__(self, result: Result) -> None:
        self._result = result

    @classmethod
    def load(cls, run_root: str | Path) -> Embeddings:
        """Opens what was exported under a run root, local or gs://, or, before the first export, its newest checkpoint.

        Manifests are read, vectors only when they are asked for. Scores are of the same step.

        Raises:
            UserError: there is no run, or it has learned nothing yet.
        """
        return cls(open_result(str(run_root)))

    @property
    def step(self) -> int:
        """The training step that the vectors are of."""
        return self._result.vectors.step

    @property
    def relations(self) -> dict[str, Relation]:
        """By name; each has the tables `lhs` and `rhs` that it leads from and to, and its `operator`."""
        return {relation.name: relation for relation in self._result.schema.relations}

    @property
    def comparator(self) -> str:
        """How two vectors are compared in a score: `dot`, `cos`, `l2` or `squared_l2`."""
        return self._result.config.model.comparator

    def __repr__(self) -> str:
        return f"<Embeddings of {self._result.root}, step {self.step}: {', '.join(self)}>"

    def __len__(self) -> int:
        return len(self._result.vectors.tables)

    def __iter__(self) -> Iterator[str]:
        return iter(self._result.vectors.tables)

    def __contains__(self, table: object) -> bool:
        return table in self._result.vectors.tables

    def __getitem__(self, table: str) -> TableEmbeddings:
        """Raises NotThere, a UserError and a KeyError, if there is no such table."""
        if table not in self:
            raise NotThere(f"no table named {table!r}; {suggest(table, self)}")
        return self._tables.setdefault(table, TableEmbeddings(table, self._result))

    @cached_property
    def _tables(self) -> dict[str, TableEmbeddings]:
        return {}

    def score(self, relation: str, lhs: str, rhs: str) -> EdgeScore:
        """The model's score of an edge, and the rank of each of its ends among all nodes that could be in its rank.

        Without `model.reciprocal` both scores are the same.

        Raises:
            UserError: there is no such relation, or no such id in the table at that end of it.
        """
        schema, source = self._result.schema, self._result.scored
        rel = relation_named(schema, relation)
        tables = schema.table_of(rel, "lhs"), schema.table_of(rel, "rhs")
        ends = [find_or_refuse(source.ids(table), table, name) for table, name in zip(tables, (lhs, rhs), strict=True)]
        return EdgeScore(
            rhs=find_rank(source, Query(tables[0], tables[1], rel, "rhs"), ends[0], ends[1]),
            lhs=find_rank(source, Query(tables[1], tables[0], rel, "lhs"), ends[1], ends[0]),
        )
