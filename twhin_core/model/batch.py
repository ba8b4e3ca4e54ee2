"""A batch as the model takes it: the rows to look up, table by table, and the queries built from them.

Each row is looked up once, however often it occurs in the batch; gathers then copy rows to where they are needed:

    looked up:  rows of table 0 │ rows of table 1 │ …
    gathers:    lhs of the edges │ rhs of the edges │ candidates for the lhs │ candidates for the rhs [│ explicit ones]
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from twhin_core.schema import Side


@dataclass(frozen=True)
class Explicit:
    """Explicit negatives of a batch's queries (see `explicit_negatives`), at most n for each slot."""

    gather: int
    """That of their rows: C · L · n; the answer's in place of one that is not there."""
    is_there: Tensor
    """bool [C, L, n]."""
    share: Tensor
    """float32 [C, L]: their share of the weight of all negatives."""
    log_share: Tensor | None = None
    """float32 [C, L, n]: log p of each; None if the side has no prior."""


@dataclass(frozen=True)
class Queries:
    """The batch's queries for one side, in C chunks of L slots (see `negatives`); a padding slot repeats an edge."""

    node: int
    """The gather of the queries' nodes, the other end of each slot's edge: C · L rows."""
    answer: int
    """The gather of the true answers: C · L rows."""
    candidate: int
    """The gather of the chunks' candidates, the negatives: C · K rows."""
    rel: Tensor
    """int64 [C, L]."""
    weight: Tensor
    """float32 [C, L]: the edge's weight; 0 in a padding slot."""
    masked: Tensor | None
    """int64: masked negatives, as positions in the flattened scores [C, L, 1 + K], or [C, L, 2 + K] with `has_self`:
    candidates that are the true answer, and the query's node where it is the answer too or lies in another table.
    None in a batch made on a device, which compares candidates with answers as it scores them."""
    correction: Tensor | None = None
    """float32 [C, K]: logQ correction of each candidate (see `negative_sampler`); None without logq_correction."""
    answer_correction: Tensor | None = None
    """float32 [C, L]: logQ correction of the true answer."""
    log_weight: Tensor | None = None
    """float32 [C]: log of each negative's weight (see `negatives.weight_of_negatives`); None means weight 1."""
    log_share: Tensor | None = None
    """float32 [C, K]: log p of each candidate (see `log_shares`); None if the side has no prior."""
    answer_log_share: Tensor | None = None
    """float32 [C, L]: log p of the true answer."""
    self_log_share: Tensor | None = None
    """float32 [C, L]: log p of the query's own node as a candidate; only with `has_self`."""
    has_self: bool = False
    """Whether each query's own node is one more negative; its score follows that of the true answer."""
    self_masked: Tensor | None = None
    """bool [C, L]: where the query's own node is masked; only with `has_self` and if `masked` is None."""
    explicit: Explicit | None = None


@dataclass(frozen=True)
class Batch:
    """B edges of one rank, with everything their loss needs; built on the CPU, moved by `to`."""

    lookups: KeyedJaggedTensor | None
    """One feature per table, with each id once and all in one jagged entry; an unpooled lookup returns a row per id.
    None where `gathers` are rows of the joined tables, which are read without a lookup."""
    gathers: list[Tensor]
    """int64 [n] each: indices into the m looked-up rows, or rows of the joined tables."""
    order: Tensor | None
    """int64: argsort of all gathers, concatenated; None without lookups."""
    start: Tensor | None
    """int64 [m + 1]: where in `order` each looked-up row begins, and where the last one ends; None without lookups."""
    queries: dict[Side, Queries]
    step_edges: int
    """The number of edges in this step over all ranks, over which the loss is averaged."""

    def ids(self, gather: int) -> Tensor:
        """The ids of a gather's rows, equal only for the same row within a table: int64 [n]."""
        index = self.gathers[gather]
        return index if self.lookups is None else self.lookups.values()[index]

    def weighted(self, weights: Tensor) -> Batch:
        """With the weight of each edge multiplied by that of its relation: float32 [relations]."""
        sides = self.queries.items()
        return replace(self, queries={side: replace(of, weight=of.weight * weights[of.rel]) for side, of in sides})

    def to(self, device: torch.device) -> Batch:
        if self.lookups is None or self.lookups.device() == device:
            return self
        return replace(
            _moved(self, device),
            gathers=[index.pin_memory().to(device, non_blocking=True) for index in self.gathers],
            queries={side: _moved_queries(queries, device) for side, queries in self.queries.items()},
            lookups=self.lookups.pin_memory().to(device, non_blocking=True),
        )


Moved = TypeVar("Moved", Batch, Queries, Explicit)


def _moved_queries(queries: Queries, device: torch.device) -> Queries:
    explicit = None if queries.explicit is None else _moved(queries.explicit, device)
    return replace(_moved(queries, device), explicit=explicit)


def _moved(value: Moved, device: torch.device) -> Moved:
    """A copy whose tensors are on the device."""
    tensors: dict[str, Any] = {
        field.name: entry.pin_memory().to(device, non_blocking=True)
        for field in fields(value)
        if isinstance(entry := getattr(value, field.name), Tensor)
    }
    return replace(value, **tensors)
