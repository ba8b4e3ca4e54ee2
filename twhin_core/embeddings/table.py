"""The embeddings of one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twhin_core.embeddings.neighbors import find_neighbors, read_choice
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import exact_words, make_query
from twhin_core.errors import UserError
from twhin_core.schema import Side
from twhin_core.vectors.ids import IDS_PER_BATCH, Id, find_or_refuse, id_text
from twhin_core.vectors.named import named_blocks, schema

if TYPE_CHECKING:
    import pandas as pd

BLOCK_BYTES = 16 << 20


class Neighbor(NamedTuple):
    """A node and its score."""

    id: str
    score: float


class TableEmbeddings:
    """The vectors of a table by id, read on demand.

    `table[id]` is a vector, `id in table` says whether it exists, `len(table)` is the number of vectors, and iteration
    yields the ids in the order of their index. An id that was an integer or a UUID in the raw files may be given as
    one.
    """

    def __init__(self, name: str, result: Result, reading: object = None) -> None:
        """`reading` keeps a version of a series from being removed as long as this object lives."""
        self.name, self._result, self._reading = name, result, reading
        self._ids, self._rows = result.vectors.ids(name), result.vectors.rows(name)
        self.dim = self._rows.dim

    def __repr__(self) -> str:
        return f"<TableEmbeddings {self.name}: {len(self):,} × {self.dim}, step {self._result.vectors.step}>"

    def __len__(self) -> int:
        return self._ids.size

    def __contains__(self, name: object) -> bool:
        """Raises UserError for what no id can be, such as 2.0."""
        return self._ids.find(id_text(name)) is not None

    def __iter__(self) -> Iterator[str]:
        for batch in self._ids.batches(IDS_PER_BATCH):
            yield from batch["id"].to_pylist()

    def __getitem__(self, name: Id) -> npt.NDArray[np.float32]:
        """The vector of a node, float32 [dim]. Raises NotFound, a UserError and a KeyError, if there is no such id."""
        position = find_or_refuse(self._ids, self.name, id_text(name))
        vector: npt.NDArray[np.float32] = self._rows.gather(np.array([position]))[0].numpy()
        return vector

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

        Raises:
            UserError: there is no such id, no such relation at this table, or no index; k < 1; nothing is a candidate,
                a file is broken, or what is chosen does not fit the question.
        """
        if k < 1:
            raise UserError(f"k: {k} is less than 1")
        choice = read_choice(
            {"exclude": list(exclude), "exclude_edges": exclude_edges, "candidates": candidates,
             "min_degree": min_degree, "rule": rule}
        )  # fmt: skip
        query = make_query(self._result.schema, self.name, relation, side)
        name = id_text(name)
        position = find_or_refuse(self._ids, self.name, name)
        found = find_neighbors(self._result, query, position, name, k, choice, index)
        return [Neighbor(*of) for of in found]

    def describe(self, relation: str | None = None, side: Side | None = None, index: bool = False) -> str:
        """What `neighbors` ranks by, and the step, in words.

        Raises:
            UserError: as `neighbors`.
        """
        from twhin_core.embeddings.index import open_index

        query = make_query(self._result.schema, self.name, relation, side)
        by = open_index(self._result, query).words if index else exact_words(self._result, query)
        return f"by {by}, step {self._result.scored.step:,}"

    def batches(self, batch_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """All rows (index: int64, id: string, embedding: fixed_size_list<float>[dim]), sorted by index."""
        names = self._ids.batches(batch_rows or max(1, BLOCK_BYTES // (4 * self.dim)))
        for block in named_blocks(names, self._rows):
            yield block.to_batch()

    def to_arrow(self) -> pa.Table:
        """All rows, with the columns of `batches`."""
        return pa.Table.from_batches(self.batches(), schema(self.dim))

    def to_pandas(self) -> pd.DataFrame:
        """All rows with the columns index, id and embedding; each embedding is float32 [dim]."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame
