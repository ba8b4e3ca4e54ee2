"""A finished graph as tables on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from twhin_core.graph.manifest import SPLITS, DegreeEntry, Manifest, RelationEntry

RELATIONS_SHOWN = 20
DEGREES = ["nodes", "mean", "median", "90%", "99%", "max", "top 1%"]  # see docs/prepare.md


def print_graph(manifest: Manifest, console: Console) -> None:
    """Prints the splits, the tables, the largest relations and the rejected rows, each with its counts."""
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
    return _table("degrees in training, a table", ["table"], DEGREES, rows)


def _relations(manifest: Manifest) -> tuple[Table, Table]:
    largest = sorted(manifest.relations, key=_edges, reverse=True)[:RELATIONS_SHOWN]
    count = len(manifest.relations)
    edges = [[entry.name, f"{entry.lhs} → {entry.rhs}", *(f"{entry.edges[s]:,}" for s in SPLITS)] for entry in largest]
    degrees = [
        [entry.name, f"{side} {table}", *_figures(entry.degrees[side])]
        for entry in largest
        for side, table in (("lhs", entry.lhs), ("rhs", entry.rhs))
    ]
    of = "a relation" if count == len(largest) else f"the {len(largest)} largest of {count} relations"
    return (
        _table(f"edges, {of}", ["relation", "tables"], list(SPLITS), edges),
        _table(f"degrees in training, {of}", ["relation", "side"], DEGREES, degrees),
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
    """Columns of names, which give way where it is narrow, and columns of figures, which do not."""
    table = Table(title=title, title_justify="left")
    for heading in names:
        table.add_column(heading, overflow="ellipsis")
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
