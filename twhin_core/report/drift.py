"""How far this version has moved from the one before: tables, and a chart of kept neighbors by degree."""

from __future__ import annotations

from dataclasses import dataclass

from twhin_core.evaluation.drift import ALIGNED, NODES, QUERIES, Drift
from twhin_core.evaluation.metrics import ALL, DRIFT, Metrics
from twhin_core.report.charts import BarChart, bar_chart
from twhin_core.report.figures import Table

SHOWN = 10
"""Tables, and relations."""


@dataclass(frozen=True)
class Moved:
    """The content of the section."""

    tables: Table
    relations: Table | None
    by_degree: list[tuple[str, BarChart]]
    """A chart of each table."""
    neighbors: str
    """The figure that the charts show."""
    aligned: bool
    """Whether vectors were rotated first, as the export rotates them."""


def collect(metrics: Metrics) -> Moved | None:
    """None without an earlier version, or if the versions have no table in common."""
    found: Drift = metrics.get(DRIFT, {})
    tables = dict(list(found.get("tables", {}).items())[:SHOWN])
    if not tables:
        return None
    names = [name for name in next(iter(tables.values()))[ALL] if name != NODES]
    neighbors = next(name for name in names if name.startswith("neighbors@"))
    relations = dict(list(found["relations"].items())[:SHOWN])
    return Moved(
        tables=_table("table", NODES, {name: of[ALL] for name, of in tables.items()}),
        relations=_table("relation", QUERIES, relations) if relations else None,
        by_degree=[(name, _by_degree(of, neighbors)) for name, of in tables.items() if len(of) > 2],
        neighbors=neighbors,
        aligned=found.get(ALIGNED, False),
    )


def _table(of: str, counted: str, figures: dict[str, dict[str, float]]) -> Table:
    names = list(dict.fromkeys(name for each in figures.values() for name in each if name != counted))
    rows = [
        [name, f"{each[counted]:,}", *(f"{each[key]:.3f}" if key in each else "–" for key in names)]
        for name, each in figures.items()
    ]
    return Table([of, counted, *names], rows)


def _by_degree(figures: dict[str, dict[str, float]], neighbors: str) -> BarChart:
    buckets = {bucket: of for bucket, of in figures.items() if bucket != ALL}
    return bar_chart(
        names=list(buckets),
        notes=[f"{of[NODES]:,} {'node' if of[NODES] == 1 else 'nodes'}" for of in buckets.values()],
        series={"result": [of[neighbors] for of in buckets.values()]},
    )
