"""Makes the weights of edges from a column.

Ibis expressions that all engines evaluate identically.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import ibis
import ibis.expr.types as ir
import numpy as np

from twhin_core.config.sources import Weight

UNITS = 2**60  # units per largest weight: weights are summed as integers, so that their order does not matter
SMALLEST = float(np.finfo(np.float32).smallest_normal)


def transformed(value: ir.Column, weight: Weight) -> ir.FloatingValue:
    """The transformed values of the column. Null where the value is not a number, or not positive for a transform."""
    number = value.try_cast("float64")
    if weight.transform == "none":
        return number
    positive = (number > 0.0).ifelse(number, ibis.null("float64"))  # engines fail on logarithms and roots of others
    return positive.sqrt() if weight.transform == "sqrt" else _log1p(positive)


def _log1p(value: ir.FloatingValue) -> ir.FloatingValue:
    """ln(1 + value), exact where 1 + value is rounded: the error of the sum cancels in the quotient."""
    above = value + 1.0
    return (above == 1.0).ifelse(value, above.ln() * (value / (above - 1.0)))


def normalized(rows: ir.Table, weights: Mapping[int, Weight]) -> ir.Table:
    """Divides and clips the weights of `rows` (rel, source, weight). `weights` by the position of the source."""
    if all(weight.is_final for weight in weights.values()):
        return rows
    dividing = [source for source, weight in weights.items() if weight.normalize == "relation"]
    columns, weight = rows.columns, rows.weight
    if dividing:
        chosen = rows.source.isin(dividing)
        means = _means(rows.filter(chosen))
        rows = rows.left_join(means, rows.rel == means.of).drop("of")
        divided = ibis.greatest(rows.weight / rows["mean"], SMALLEST)
        weight = rows.source.isin(dividing).ifelse(divided, rows.weight)
    for source, of in weights.items():
        if of.clip is not None:
            weight = (rows.source == source).ifelse(ibis.least(weight, of.clip), weight)
    return rows.mutate(weight=weight).select(*columns)


def _means(rows: ir.Table) -> ir.Table:
    """The mean weight of each relation, as (of: int32, mean: float64)."""
    largest = rows.group_by("rel").agg(largest=rows.weight.max())
    scaled = rows.inner_join(largest, "rel")
    units = (scaled.weight / scaled.largest * UNITS + 0.5).floor().cast("int64").cast("decimal(28, 0)")
    sums = scaled.mutate(units=units).group_by("rel", "largest").agg(units=ibis._.units.sum(), count=ibis._.count())
    found = sums.to_pyarrow().to_pylist()
    means = [float(Fraction(row["largest"]) * int(row["units"]) / UNITS / row["count"]) for row in found]
    return ibis.memtable(
        {"of": np.array([row["rel"] for row in found], np.int32), "mean": np.array(means, np.float64)},
        schema={"of": "int32", "mean": "float64"},
    )
