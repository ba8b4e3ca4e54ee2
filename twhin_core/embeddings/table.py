"""The embeddings of one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twhin_core.embeddings.neighbors import find_neighbors, read_choice
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import exact_words, make_query, with_prior
from twhin_core.embeddings.vector_table import VectorTable
from twhin_core.errors import UserError
from twhin_core.export.map_chain import read_map
from twhin_core.published import root_of, series_of
from twhin_core.schema import Side
from twhin_core.vectors.ids import Id, find_or_refuse, id_text
from twhin_core.vectors.rotation import multiplied


class Neighbor(NamedTuple):
    """A node and its score."""

    id: str
    score: float


class TableEmbeddings(VectorTable):
    """The vectors of a table by id, as a run has exported or trained them, and their neighbors."""

    def __init__(self, name: str, result: Result, reading: object = None) -> None:
        """`reading` keeps a version of a series from being removed as long as this object lives."""
        super().__init__(name, result.vectors.ids(name), result.vectors.rows(name), reading)
        self._result = result

    def __repr__(self) -> str:
        return f"<TableEmbeddings {self.name}: {len(self):,} × {self.dim}, step {self._result.vectors.step}>"

    def in_space_of(self, earlier: str | Path) -> VectorTable:
        """The same nodes' vectors as an earlier version would have them: mapped to its space (`export.map`).

        Args:
            earlier: the earlier version's run root or, in the same series, its id. The maps of all versions on the way
                are multiplied.

        Raises:
            UserError: no maps of this table lead there, or a version was exported anew since it was mapped to.
        """
        earlier, series = str(earlier), series_of(self._result.root)
        if series is not None and "/" not in earlier:
            earlier = root_of(series, earlier)
        matrix = read_map(self._result.root, earlier, self.name)
        rows = self._rows if matrix is None else multiplied(self._rows, matrix)
        return VectorTable(self.name, self._ids, rows, self._reading)

    def neighbors(
        self,
        name: Id,
        relation: str | None = None,
        k: int = 10,
        side: Side | None = None,
        index: bool = False,
        exclude: Sequence[str] = (),
        exclude_edges: str | None = None,
        candidates: str | Mapping[str, Any] | None = None,
        min_degree: int = 0,
        rule: Mapping[str, Any] | None = None,
        prior: float | None = None,
    ) -> list[Neighbor]:
        """The k nodes that score highest for the node `name`, best first, without the node itself.

        Args:
            relation: rank the nodes at its other end by the model's score. Default: rank the nodes of this table by
                cosine.
            k: if larger than the number of candidates, all of them.
            side: the end of the relation to ask for: `rhs` (the default) for a relation that starts at this table;
                `lhs`, which must be set, for one that only ends here.
            index: use the exported faiss index, which ranks by inner product, by cosine with `export.normalize`, or by
                distance.
            exclude: relations; leaves out the nodes that their known edges, of all splits, lead to. Reads all edges.
            exclude_edges: Parquet files of more pairs to leave out: columns lhs and rhs, with ids, as the ends of the
                relation. Without one, the node is the lhs.
            candidates: a file with the ids of the nodes that may be found, or a mapping as in the section `recommend`.
            min_degree: only nodes with at least as many training edges of the relation.
            rule: a business rule as in the section `recommend`, `{"name": …, "fetch": …}`.
            prior: the weight of `model.prior` in scores, from 0 for none. Default: that of the export, or else the
                trained one.

        Raises:
            UserError: there is no such id, no such relation at this table, or no index; k < 1; nothing is a candidate,
                a file is broken, or what is chosen does not fit the question.
        """
        if k < 1:
            raise UserError(f"k: {k} is less than 1")
        choice = read_choice(
            {"exclude": list(exclude), "exclude_edges": exclude_edges, "candidates": candidates,
             "min_degree": min_degree, "rule": rule, "prior": prior}
        )  # fmt: skip
        query = with_prior(self._result, make_query(self._result.schema, self.name, relation, side), choice.prior)
        name = id_text(name)
        position = find_or_refuse(self._ids, self.name, name)
        found = find_neighbors(self._result, query, position, name, k, choice, index)
        return [Neighbor(*of) for of in found]

    def describe(
        self, relation: str | None = None, side: Side | None = None, index: bool = False, prior: float | None = None
    ) -> str:
        """What `neighbors` ranks by, and the step, in words.

        Raises:
            UserError: as `neighbors`.
        """
        from twhin_core.embeddings.index import open_index

        query = with_prior(self._result, make_query(self._result.schema, self.name, relation, side), prior)
        by = open_index(self._result, query).words if index else exact_words(self._result, query)
        return f"by {by}, step {self._result.scored.step:,}"
