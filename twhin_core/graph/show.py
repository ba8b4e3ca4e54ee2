"""Prints a summary of a graph as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from twhin_core.graph.manifest import SPLITS, DegreeEntry, Manifest, RelationEntry

RELATIONS_SHOWN = 20
DEGREES = ["nodes", "mean", "median", "90%", "99%", "max", "top 1%"]  # see docs/prepare.md


def print_graph(manifest: Manifest, console: Console) -> None:
    """Prints the splits, the tables, the largest relations and the rejected rows with their counts."""
    for table in (_splits(manifest), _tables(manifest), *_relations(manifest), _rejected(manifest)):
        console.print(table)


def _splits(manifest: Manifest) -> Table:
    total = sum(entry.edges for entry in manifest.splits.values())
    rows = []
    for split in SPLITS:
        entry = manifest.splits[split]
        figures = [f"{entry.edges:,}", _share(entry.edges, total), f"{entry.cold_edges:,}", f"{len(entry.files):,}"]
        rows.append([split, *figures])
    return _table(f"{total:,} edges", ["split"], ["edges", "share", "with a cold node", "files"], rows)


def _tables(manifest: Manifest) -> Table:
    rows = [[entry.name, *_figures(entry.degrees)] for entry in manifest.tables]
    return _table("training degrees by table", ["table"], DEGREES, rows)


def _relations(manifest: Manifest) -> tuple[Table, Table]:
    largest = sorted(manifest.relations, key=_edges, reverse=True)[:RELATIONS_SHOWN]
    count = len(manifest.relations)
    edges = [[entry.name, f"{entry.lhs} → {entry.rhs}", *(f"{entry.edges[s]:,}" for s in SPLITS)] for entry in largest]
    degrees = [
        [entry.name, f"{side} {table}", *_figures(entry.degrees[side])]
        for entry in largest
        for side, table in (("lhs", entry.lhs), ("rhs", entry.rhs))
    ]
    shown = "" if count == len(largest) else f", {len(largest)} largest of {count}"
    return (
        _table(f"edges by relation{shown}", ["relation", "tables"], list(SPLITS), edges),
        _table(f"training degrees by relation{shown}", ["relation", "side"], DEGREES, degrees),
    )


def _rejected(manifest: Manifest) -> Table:
    rows = manifest.rejected.rows
    reasons = sorted(manifest.rejected.by_reason.items(), key=lambda item: -item[1])
    listed = [[reason, f"{count:,}", _share(count, rows)] for reason, count in reasons]
    return _table(f"{rows:,} rows rejected", ["reason"], ["rows", "share"], listed)


def _edges(entry: RelationEntry) -> int:
    return sum(entry.edges.values())


def _figures(degrees: DegreeEntry) -> list[str]:
    values = [f"{value:,}" for value in degrees.quantiles.values()]
    return [f"{degrees.nodes:,}", f"{degrees.mean:,.1f}", *values, f"{degrees.top_share:.1%}"]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"


def _table(title: str, names: list[str], figures: list[str], rows: list[list[str]]) -> Table:
    """A table with columns of names, which are truncated on a narrow terminal, and of figures, which are not."""
    table = Table(title=title, title_justify="left")
    for heading in names:
        table.add_column(heading, overflow="ellipsis")
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
