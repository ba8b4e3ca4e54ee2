"""How the age of rows and edges counts: a sliding window, and weights that halve.

Ibis expressions that all engines evaluate identically.
"""

from __future__ import annotations

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from twhin_core.config.numbers import in_seconds
from twhin_core.config.prepare import Prepare
from twhin_core.graph.edge_weights import SMALLEST


@dataclass(frozen=True)
class Ages:
    """Ages count from `now`, in seconds or in the unit of the data; None if no row has a time."""

    now: int | None
    window: int | None
    half_life: int | None

    def with_reasons(self, rows: ir.Table) -> ir.Table:
        """Adds the reason `outside_window` to the rows (time, reason) without another one that are too old."""
        if self.window is None or self.now is None:
            return rows
        expired = (rows.reason.isnull() & self.expired(rows)).fill_null(False)
        return rows.mutate(reason=expired.ifelse("outside_window", rows.reason))

    def expired(self, rows: ir.Table) -> ir.BooleanValue:
        """Whether a row is older than the window. Rows without a time are, because none becomes an edge."""
        if self.window is None or self.now is None:
            return ibis.literal(False)
        return (rows.time < self.now - self.window).fill_null(True)

    def decayed(self, rows: ir.Table) -> ir.Table:
        """The rows with weights by their age."""
        if self.half_life is None or self.now is None:
            return rows
        halvings = (self.now - rows.time).cast("float64") / float(self.half_life)
        return rows.mutate(weight=_at_least_smallest(rows.weight * ibis.literal(2.0) ** -halvings))

    def aged(self, edges: ir.Table, before: int | None) -> ir.Table:
        """The edges whose weights are as of `before` with those as of `now`: all ages grow by the same."""
        if not self.ages_all(before):
            return edges
        assert self.now is not None
        assert before is not None
        assert self.half_life is not None
        return edges.mutate(weight=_at_least_smallest(edges.weight * 2.0 ** -((self.now - before) / self.half_life)))

    def ages_all(self, before: int | None) -> bool:
        """Whether the weights of all edges change from `before` to `now`."""
        return self.half_life is not None and before is not None and before != self.now


def ages_of(settings: Prepare, newest: int | None) -> Ages:
    """By the config. `newest`: the newest time of all rows, if any has one."""
    end = None if settings.time_window is None else settings.time_window.bounds[1]
    window, decay = settings.window, settings.edge_decay
    return Ages(
        now=newest if end is None else end,
        window=None if window is None else in_seconds(window),
        half_life=None if decay is None else in_seconds(decay.half_life),
    )


def newest_time(rows: ir.Table) -> int | None:
    """The newest time of the rows (time, reason) without a reason."""
    newest: int | None = rows.filter(rows.reason.isnull()).time.max().execute()
    return newest


def _at_least_smallest(weight: ir.FloatingValue) -> ir.FloatingValue:
    """Weights stay normal float32 numbers above 0, however old their edges are."""
    return ibis.greatest(weight, SMALLEST)
