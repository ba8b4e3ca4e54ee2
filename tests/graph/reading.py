"""Reads what prepare wrote, with pyarrow alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from twhin_core.graph.manifest import Manifest


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's Parquet files, in the order of the files' names."""
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def ids(root: Path, table: str) -> list[str]:
    """The ids of a table in the order of its rows."""
    return [row["id"] for row in rows(root / "graph/vocab" / table)]


def edges(root: Path, manifest: Manifest, split: str) -> list[tuple[str, str, str]]:
    """The edges of a split as (lhs id, relation, rhs id), in the order of the files."""
    vocabularies = {entry.name: rows(root / "graph/vocab" / entry.name) for entry in manifest.tables}
    names = {table: {row["index"]: row["id"] for row in of} for table, of in vocabularies.items()}
    found = []
    for row in rows(root / "graph/edges" / split):
        relation = manifest.relations[row["rel"]]
        found.append((names[relation.lhs][row["lhs"]], relation.name, names[relation.rhs][row["rhs"]]))
    return found


def rejected(root: Path) -> list[tuple[str | None, str | None, str | None, str]]:
    """The rejected rows as (lhs, relation, rhs, reason)."""
    return [(row["lhs"], row["relation"], row["rhs"], row["reason"]) for row in rows(root / "graph/rejected")]
