"""The rows of an earlier version of a table, in the places of this version's rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from twhin_core.checkpoints.earlier import EarlierRun
from twhin_core.distributed.parts import Part, local_parts
from twhin_core.vectors.ids import Ids, Ints
from twhin_core.vectors.rows import Rows

MATCHING_BYTES = 1 << 30
"""For each rank's matching of ids."""
ROWS_AT_ONCE = 1 << 17

Whole = Tensor | ShardedTensor
"""A table or a part of its optimizer's state."""


class MatchedTable:
    """Where the rows of a table that this rank needs were in the earlier version."""

    def __init__(self, earlier: EarlierRun, table: str, here: Ids, rows: range, folder: Path) -> None:
        """
        Args:
            here: the ids of the table.
            rows: those that this rank needs.
            folder: for files of 8 bytes for each of them, and for each earlier row of the table.

        Raises:
            UserError: a vocabulary is broken.
        """
        self._rows, self._path = rows, folder / table
        self._is_known = table in earlier.schema.tables and len(rows) > 0
        self.degrees: Ints | None = None
        """The training degree of each earlier row; None if no graph was prepared."""
        if self._is_known:
            earlier.match(table, here, rows, self._path, MATCHING_BYTES)
            self.degrees = earlier.degrees(table, folder / f"{table}.degrees")

    def trained(self, rows: Ints) -> Ints:
        """Like `of`, but also -1 for rows that had no training edge."""
        earlier = self.of(rows)
        return earlier if self.degrees is None else np.where(self.degrees[earlier] > 0, earlier, -1)

    def is_known(self, rows: Ints) -> npt.NDArray[np.bool_]:
        """Which rows that this rank needs are not new."""
        return self.of(rows) >= 0

    def of(self, rows: Ints) -> Ints:
        """The earlier rows of rows that this rank needs; -1 for new ones."""
        if not self._is_known:
            return np.full(len(rows), -1)
        found: Ints = np.asarray(np.memmap(self._path, np.int64, "r")[rows - self._rows.start])
        return found


class Known(NamedTuple):
    """Rows of a part that were matched."""

    place: Tensor
    """int64 [n], their positions in the part."""
    earlier: Ints
    """[n]"""


def known_rows(matched: MatchedTable, part: Part, trained: bool = False) -> Iterator[Known]:
    """The matched rows of a part, all or only the `trained` ones, among `ROWS_AT_ONCE` rows at a time."""
    find = matched.trained if trained else matched.of
    for start in range(0, len(part.values), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(part.values))
        earlier = find(np.arange(part.first_row + start, part.first_row + stop))
        place = np.flatnonzero(earlier >= 0)
        yield Known(torch.from_numpy(start + place), earlier[place])


def copy_rows(matched: MatchedTable, stored: Rows, target: Whole, trained: bool = False) -> None:
    """Copies the earlier rows of a table, or of its optimizer's state, into this rank's part of it.

    `trained`: only of rows that had training edges.
    """
    for part in local_parts(target):
        for place, earlier in known_rows(matched, part, trained):
            set_rows(part, place, stored.gather(earlier))


def set_rows(part: Part, place: Tensor, rows: Tensor) -> None:
    """Writes whole rows of a table, [n, columns of the table], to `place` [n] of a part of it."""
    values = part.values
    columns = slice(part.first_column, part.first_column + (values.shape[1] if values.dim() > 1 else 1))
    values[place.to(values.device)] = rows[:, columns].reshape(-1, *values.shape[1:]).to(values)


def held_rows(whole: Whole) -> range:
    """The smallest range that contains all rows that this rank holds a part of."""
    parts = [part for part in local_parts(whole) if len(part.values)]
    if not parts:
        return range(0)
    return range(min(part.first_row for part in parts), max(part.first_row + len(part.values) for part in parts))


def counted_parts(whole: Whole, is_first: bool) -> Iterator[Part]:
    """This rank's parts, so that those of all ranks together hold the first column of each row once."""
    if isinstance(whole, ShardedTensor) or is_first:
        yield from (part for part in local_parts(whole) if part.first_column == 0)


def count_known(matched: MatchedTable, whole: Whole, is_first: bool, trained: bool = False) -> int:
    """How many matched rows this rank counts, so that the counts of all ranks add up."""
    parts = counted_parts(whole, is_first)
    return sum(len(known.earlier) for part in parts for known in known_rows(matched, part, trained))
