"""Ibis's PySpark backend with Arrow instead of pandas."""

from __future__ import annotations

from typing import Any

import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.pyspark import Backend
from pyspark.sql import DataFrame


class ArrowBackend(Backend):  # type: ignore[misc] # Ibis has no types
    """Avoids pandas, which PySpark 4.3 does not fully support and which may lose nulls in string columns."""

    def to_frame(self, rows: ir.Table) -> DataFrame:
        self._run_pre_execute_hooks(rows)
        frame: DataFrame = self._session.sql(self.compile(rows))
        return frame

    def to_pyarrow(self, expr: ir.Expr, /, **_: Any) -> Any:
        rows = expr.as_table()
        table = self.to_frame(rows).toArrow().cast(rows.schema().to_pyarrow())
        return expr.__pyarrow_result__(table)

    def execute(self, expr: ir.Expr, /, **_: Any) -> Any:
        """The value of a scalar. For tables and columns, use `to_pyarrow`."""
        assert isinstance(expr, ir.Scalar)
        return self.to_pyarrow(expr).as_py()

    def _register_in_memory_table(self, op: ops.InMemoryTable) -> None:
        table: pa.Table = op.data.to_pyarrow(op.schema)
        self._session.createDataFrame(table).createOrReplaceTempView(op.name)
