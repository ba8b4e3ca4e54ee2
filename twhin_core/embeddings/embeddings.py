"""The embeddings of a run, by table, and the scores of its edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pyarrow as pa

from twhin_core.config import Relation
from twhin_core.embeddings.neighbors import read_choice
from twhin_core.embeddings.result import Result, open_result
from twhin_core.embeddings.search import NodeRank, Query, exact_words, find_rank, relation_named, with_prior_of_any
from twhin_core.embeddings.table import TableEmbeddings
from twhin_core.errors import NotFound, suggest
from twhin_core.graph.manifest import read_manifest
from twhin_core.published import find_root, is_version
from twhin_core.series.reading import Reading
from twhin_core.vectors.ids import Id, find_or_refuse, id_text
from twhin_core.vectors.labels import has_labels, read_labels

if TYPE_CHECKING:
    import pandas as pd

    from twhin_core.inductive.embed import Trained


class EdgeScore(NamedTuple):
    """The ranks of both ends of an edge."""

    rhs: NodeRank
    """The rhs among all answers to (lhs, relation, ?)."""
    lhs: NodeRank
    """The lhs among all answers to (?, relation, rhs)."""
    by: str
    """What the scores are, in words."""


class Embeddings(Mapping[str, TableEmbeddings]):
    """The embeddings of a run, by table: `Embeddings.load(run_root)["user"]["id"]`."""

    def __init__(self, result: Result, reading: Reading | None = None) -> None:
        self._result, self._reading = result, reading
        self._tables: dict[str, TableEmbeddings] = {}

    @classmethod
    def load(cls, run_root: str | Path) -> Embeddings:
        """Opens the export under a run root or its URL, or its newest checkpoint if nothing was exported.

        Of a series, opens the published version, and keeps it from being removed until `close` is called or nothing
        refers to these embeddings and their tables any more. Reads manifests now and vectors on demand. Scores are from
        the same step as the vectors.

        Raises:
            UserError: there is no run, nothing has been trained, or no version of the series is published.
        """
        root = find_root(str(run_root))
        reading = Reading(root) if is_version(root) else None
        return cls(open_result(root), reading)

    def close(self) -> None:
        """Lets a version of a series be removed. Nothing can be read afterwards that has not been read before."""
        if self._reading is not None:
            self._reading.close()

    @property
    def step(self) -> int:
        """The training step of the vectors."""
        return self._result.vectors.step

    @property
    def relations(self) -> dict[str, Relation]:
        """The relations by name, each with its tables `lhs` and `rhs` and its `operator`."""
        return {relation.name: relation for relation in self._result.schema.relations}

    @property
    def comparator(self) -> str:
        """How a score compares vectors: `dot`, `cos`, `l2` or `squared_l2`."""
        return self._result.config.model.comparator

    def __repr__(self) -> str:
        return f"<Embeddings of {self._result.root}, step {self.step}: {', '.join(self)}>"

    def __len__(self) -> int:
        return len(self._result.vectors.tables)

    def __iter__(self) -> Iterator[str]:
        return iter(self._result.vectors.tables)

    def __getitem__(self, table: str) -> TableEmbeddings:
        """Raises NotFound, a UserError and a KeyError, if there is no such table."""
        if table not in self._result.vectors.tables:
            raise NotFound(f"no table named {table!r}; {suggest(table, self)}")
        if table not in self._tables:
            self._tables[table] = TableEmbeddings(table, self._result, self._reading)
        return self._tables[table]

    def embed(
        self,
        table: str,
        edges: pa.Table | pd.DataFrame,
        method: Literal["fit", "mean"] = "fit",
        with_known: bool = False,
    ) -> pa.Table:
        """Vectors of nodes of `table` that were not trained, from their edges to nodes that were.

        Args:
            edges: with the columns lhs, relation and rhs (ids, and the relation's name) and maybe weight.
            method: `fit` takes a few steps of the training loss with everything else frozen; `mean`, which is faster,
                averages what the edges predict.
            with_known: whether to embed trained nodes too, by these edges alone.

        Returns:
            (id: string, edges: int64, embedding: fixed_size_list<float>[dim]), sorted by id: of the nodes that have
            such an edge, with the number of their edges.

        Raises:
            UserError: there is no such table, the edges lack a column, or a weight is not a positive number.
        """
        from twhin_core.inductive.edges import checked
        from twhin_core.inductive.embed import embed, schema

        given = edges if isinstance(edges, pa.Table) else pa.Table.from_pandas(edges, preserve_index=False)
        batches = embed(self.trained, table, checked(given, "edges"), method, with_known)
        return pa.Table.from_batches(batches, schema(self._result.config.model.dim))

    @property
    def trained(self) -> Trained:
        """The run as `twhin_core.inductive` takes it."""
        from twhin_core.inductive.embed import Trained

        return Trained(self._result.config, self._result.root, self._result.schema, self._result.scored)

    def labels(self, table: str, names: Sequence[Id]) -> dict[str, str] | None:
        """The labels of those nodes that have one, by id; None if prepare got no labels for the table."""
        manifest = read_manifest(self._result.root) if self._result.config.prepare is not None else None
        texts = [id_text(name) for name in names]
        return read_labels(manifest, self._result.root, table, texts) if has_labels(manifest, table) else None

    def score(self, relation: str, lhs: Id, rhs: Id, prior: float | None = None) -> EdgeScore:
        """The model's score of an edge, and the rank of each end among all nodes of its table.

        Both scores are equal unless the model has reciprocal relations or a prior.

        Args:
            prior: as in `TableEmbeddings.neighbors`, of those ends whose scores have a prior.

        Raises:
            UserError: there is no such relation, or an id is not in the relation's table.
        """
        weight = read_choice({"prior": prior}, "score").prior
        schema, source = self._result.schema, self._result.scored
        rel = relation_named(schema, relation)
        tables = schema.table_of(rel, "lhs"), schema.table_of(rel, "rhs")
        names = id_text(lhs), id_text(rhs)
        ends = [find_or_refuse(source.ids(table), table, name) for table, name in zip(tables, names, strict=True)]
        queries = Query(tables[0], tables[1], rel, "rhs"), Query(tables[1], tables[0], rel, "lhs")
        for_rhs, for_lhs = with_prior_of_any(self._result, queries, weight)
        return EdgeScore(
            rhs=find_rank(source, for_rhs, ends[0], ends[1]),
            lhs=find_rank(source, for_lhs, ends[1], ends[0]),
            by=exact_words(self._result, for_lhs if for_rhs.prior is None else for_rhs),
        )
