"""What a record of forgotten nodes says, as tables."""

from __future__ import annotations

from twhin_core.graph.forgotten import Record
from twhin_core.output import Cell, Column, Listing


def list_record(of: Record) -> list[Listing]:
    """The counts, and what became of each version."""
    counts: list[list[Cell]] = [["ids", of.ids], ["unknown", of.unknown], ["nodes", of.nodes], ["edges", of.edges]]
    versions: list[list[Cell]] = [[version, "removed", None] for version in of.removed]
    if of.replaced_by is not None:
        versions.append([of.replaced_by, f"published in place of {of.version}", 0])
    versions += [[version, "still holds them", count] for version, count in of.held.items()]
    title = f"forgotten from {of.table} on {of.finished}, by {of.by}"
    return [
        Listing("forgotten", title, [Column("what"), Column("count", ",d")], counts),
        Listing("versions", "versions", [Column("version"), Column("state"), Column("ids", ",d")], versions),
    ]
