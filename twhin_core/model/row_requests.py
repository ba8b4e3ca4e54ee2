"""Rows that a batch looks up, of one table or of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RowRequest:
    """Rows to look up."""

    node: Tensor
    """int64 [n]."""
    of_table: Callable[[], Tensor]
    """Returns the table of each row: int64 [n]."""
    counts: list[int]
    """How many rows each table has among them."""

    @property
    def table(self) -> int | None:
        """The table of all rows; None if they come from several."""
        some = [number for number, count in enumerate(self.counts) if count]
        return None if len(some) > 1 else some[0] if some else 0


def repeated(values: Tensor, times: int) -> Tensor:
    """Repeats each value: [n] → [n · times]."""
    return values[:, None].expand(-1, times).flatten()
