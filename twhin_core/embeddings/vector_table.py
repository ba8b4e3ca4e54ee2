"""Vectors by id, read on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twhin_core.vectors.ids import IDS_PER_BATCH, Id, Ids, find_or_refuse, id_text
from twhin_core.vectors.named import named_blocks, schema
from twhin_core.vectors.rows import Rows

if TYPE_CHECKING:
    import pandas as pd

BLOCK_BYTES = 16 << 20


class VectorTable:
    """The vectors of a table by id, read on demand.

    `table[id]` is a vector, `id in table` says whether it exists, `len(table)` is the number of vectors, and iteration
    yields the ids in the order of their index. An id that was an integer or a UUID in the raw files may be given as
    one.
    """

    def __init__(self, name: str, ids: Ids, rows: Rows, reading: object = None) -> None:
        """`reading` keeps a version of a series from being removed as long as this object lives."""
        self.name, self._ids, self._rows, self._reading = name, ids, rows, reading
        self.dim = rows.dim

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self):,} × {self.dim}>"

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
