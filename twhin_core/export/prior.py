"""The prior of exported candidates: a column of its own, or one more coordinate of the vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from twhin_core.export.manifest import PriorOf
from twhin_core.export.vector_set import VectorSet
from twhin_core.progress import log
from twhin_core.schema import Side
from twhin_core.vectors.rows import Ints, WithColumn

if TYPE_CHECKING:
    from torch import Tensor

COLUMN = "prior"


class PriorColumn:
    """The column `prior` of Parquet files: fixed_size_list<float>, with a number for each of `prior_ends`."""

    def __init__(self, vector_set: VectorSet) -> None:
        prior, ends = vector_set.prior, vector_set.prior_ends
        self._columns = [] if prior is None else [prior.column(side, rel) for side, rel in ends]
        self._type = pa.list_(pa.float32(), len(ends))

    def with_field(self, schema: pa.Schema) -> pa.Schema:
        """`schema` with the column, if there is one."""
        return schema.append(pa.field(COLUMN, self._type)) if self._columns else schema

    def appended(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`batch`, whose column `index` has rows of the table, with the column, if there is one."""
        if not self._columns:
            return batch
        rows = batch["index"].to_numpy()
        values = np.stack([column(rows).numpy() for column in self._columns], 1)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=self._type)
        return pa.RecordBatch.from_arrays([*batch.columns, lists], schema=self.with_field(batch.schema))


def extended(vector_set: VectorSet) -> tuple[VectorSet, PriorOf | None]:
    """The vectors with one more coordinate: the prior of candidates, 1 of queries; and what it is the prior of.

    Inner products then are the model's scores. Unchanged if they are not, or without a prior. The candidates of several
    relations, each with a prior of its own, get that of `export.query_side`; without it they stay as they are, which is
    logged.
    """
    import torch

    prior, model = vector_set.prior, vector_set.run.config.model
    if prior is None or (model.comparator == "cos") != vector_set.is_normalized:
        return vector_set, None
    if vector_set.relation is not None:
        if "rhs" not in prior.sides:
            return vector_set, None
        ones = WithColumn(vector_set.rows, lambda rows: torch.ones(len(rows)))
        rel = vector_set.run.schema.names.index(vector_set.relation)
        return replace(vector_set, rows=ones), vector_set.prior_of(("rhs", rel))
    end = _end(vector_set)
    if end is None:
        return vector_set, None
    column, index = prior.column(*end), vector_set.index

    def of_positions(positions: Ints) -> Tensor:
        return column(positions if index is None else index[positions])

    return replace(vector_set, rows=WithColumn(vector_set.rows, of_positions)), vector_set.prior_of(end)


def _end(vector_set: VectorSet) -> tuple[Side, int] | None:
    """The queries whose prior the candidates get."""
    ends, query_side = vector_set.prior_ends, vector_set.run.config.export.query_side
    named = [end for end in ends if vector_set.prior_of(end).is_of(query_side or "", "rhs")]
    if len(named or ends) > 1:
        log.info(
            "export: %s is written without a prior, of which it has one for each of %d queries; choose a relation with "
            "export.query_side", vector_set.name, len(ends),
        )  # fmt: skip
    return (named or ends)[0] if len(named or ends) == 1 else None
