"""Written lists as a table."""

from __future__ import annotations

from collections.abc import Mapping

from twhin_core.output import Cell, Column, Listing
from twhin_core.recommend.manifest import ListsManifest


def list_lists(made: Mapping[str, ListsManifest], folders: Mapping[str, str]) -> Listing:
    """One row for each relation."""
    columns = [
        Column("relation"), Column("users", ",d"), Column("unknown users", ",d", keys=("unknown_users",)),
        Column("candidates", ",d"), Column("k", ",d"), Column("share of exact", ".3f", keys=("share_of_exact",)),
        Column("files", ",d"), Column("folder"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [name, of.users, of.unknown_users, of.candidates, of.k, of.share_of_exact, len(of.files), folders[name]]
        for name, of in made.items()
    ]
    return Listing("lists", "lists of candidates", columns, rows)
