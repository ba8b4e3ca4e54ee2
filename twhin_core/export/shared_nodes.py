"""The nodes of a table that an earlier version has exported and this one has too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twhin_core.data.prefetch import Ahead
from twhin_core.export.earlier import EarlierExport
from twhin_core.parquet import VECTOR_BYTES_PER_GROUP
from twhin_core.progress import Progress
from twhin_core.sizes import in_bytes
from twhin_core.vectors.matching import IDS_AT_ONCE, Names, match
from twhin_core.vectors.named import named_blocks
from twhin_core.vectors.parquet_rows import ParquetRows
from twhin_core.vectors.rows import Ints, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from twhin_core.export.vector_set import TrainedRun


class Shared(NamedTuple):
    """n of the nodes, and their vectors in both versions."""

    positions: Ints
    """[n] their rows in the earlier version's files."""
    now: Tensor
    before: Tensor


class SharedNodes:
    """Matched by their ids."""

    def __init__(self, run: TrainedRun, earlier: EarlierExport, table: str, path: Path) -> None:
        """Writes a file of 8 bytes per row of the earlier version to `path`.

        Raises:
            UserError: a vocabulary is broken, or the ids cannot be matched.
        """
        entry, ids = earlier.tables[table], earlier.ids(table)
        size = entry.rows + entry.unnamed_rows
        names = Names(f"{entry.rows:,} nodes of table {table}", earlier.key, earlier.root, "evaluation.memory_limit")
        match(path, range(size), ids, run.ids(table), in_bytes(run.config.evaluation.memory_limit), names)
        self._earlier, self._table, self._rows = earlier, table, np.memmap(path, np.int64, "r")

    def __len__(self) -> int:
        starts = range(0, len(self._rows), IDS_AT_ONCE)
        return sum(int(np.count_nonzero(self._rows[start : start + IDS_AT_ONCE] >= 0)) for start in starts)

    @property
    def before(self) -> Rows:
        """The vectors of all nodes of the table that the earlier version has exported."""
        return ParquetRows(self._earlier.files(self._table), self._earlier.manifest.dim)

    def vectors(self, now: Rows, label: str) -> Iterator[Shared]:
        """All shared nodes, in the order of the earlier version's files, from which vectors are streamed.

        Args:
            now: of this version, gathered by row.
            label: of the progress.
        """
        before = self.before
        batches = self._earlier.ids(self._table).batches(max(1, VECTOR_BYTES_PER_GROUP // (4 * before.dim)))
        start = 0
        with (
            Progress(f"{label} {self._table}", before.size, "rows") as progress,
            Ahead(named_blocks(batches, before)) as ahead,
        ):
            for block in ahead:
                rows = self._rows[block.index.to_numpy()]
                shared = np.flatnonzero(rows >= 0)
                yield Shared(start + shared, now.gather(rows[shared]), block.vectors[shared])
                start += len(block)
                progress.update(len(block))
