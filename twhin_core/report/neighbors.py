"""The neighbors of a few nodes: in their own table, and as answers of the relations that start there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twhin_core.config import Config
from twhin_core.config.relation import negative_relations
from twhin_core.graph.manifest import Manifest, read_manifest
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import open_parquet
from twhin_core.report.vectors import TABLES_SHOWN, sample_rows
from twhin_core.schema import Schema
from twhin_core.vectors.ids import Ids
from twhin_core.vectors.labels import read_labels
from twhin_core.vectors.names import open_ids
from twhin_core.vectors.prior import Prior
from twhin_core.vectors.rows import Ints, Rows, SelectedRows
from twhin_core.vectors.top_k import Score, answers, similar, top_k

if TYPE_CHECKING:
    from torch import Tensor

K = 5
NODES_PER_KIND = 2
"""Nodes shown per table: this many with the most training edges, and this many of median degree."""

RELATIONS_PER_TABLE = 2

SEARCHED = 1_000_000
"""Maximum number of rows of a table that are searched; of a larger table, a sample."""

STRETCH = 1000
"""Length of the runs of adjacent rows that make up the sample, for large reads."""

NAMES_READ = 65_536
"""The nodes shown are among the first of the vocabulary, whose order is that of a hash and hence random."""


@dataclass(frozen=True)
class Near:
    """The neighbors of one node: (id, score), best first."""

    of: str
    """The name of the relation, or empty for neighbors within the table."""
    table: str
    nodes: list[tuple[str, float]]
    rows: list[int]
    """Of the nodes in their table."""


@dataclass(frozen=True)
class Node:
    """A node and its neighbors."""

    name: str
    row: int
    """In its table."""
    degree: int | None
    """Its number of training edges, if known."""
    lists: list[Near]


@dataclass(frozen=True)
class Neighbors:
    """Nodes by table. `sampled` lists the tables of which only `SEARCHED` rows were searched.

    `labels`: by table and id, of the nodes that have one.
    """

    tables: list[tuple[str, list[Node]]]
    labels: dict[str, dict[str, str]]
    sampled: list[str]
    k: int
    searched: int


class _Table:
    """The nodes of a table that have ids, by position, and the sample of them that is searched."""

    def __init__(self, name: str, ids: Ids, rows: Rows) -> None:
        self.name, self.ids, self.rows = name, ids, rows
        self.searched = sample_rows(ids.size, SEARCHED, stretch=STRETCH)

    def rows_at(self, positions: Ints) -> Ints:
        # A vocabulary that prepare did not make may lack ids for some rows.
        return positions if self.ids.index is None else self.ids.index[positions]

    def vectors(self, positions: Ints) -> Tensor:
        return self.rows.gather(self.rows_at(positions))

    def near(self, of: str, score: Score, own: Ints, is_own: bool, rows: Rows | None = None) -> list[Near]:
        """The best candidates for each of the nodes `own`.

        Args:
            is_own: those are nodes of this table, to be excluded.
            rows: of this table, as `score` takes them. Default: its vectors.
        """
        import torch

        exclude = None
        if is_own:
            at = np.searchsorted(self.searched, own).clip(max=len(self.searched) - 1)
            exclude = torch.from_numpy(np.where(self.searched[at] == own, at, -1))
        candidates = SelectedRows(rows or self.rows, len(self.searched), self.rows_at(self.searched))
        scores, places = top_k(score, len(own), candidates, K, exclude)
        positions = self.searched[places.numpy()]
        return [
            Near(of, self.name, list(zip(self.ids.at(found), best, strict=True)), self.rows_at(found).tolist())
            for found, best in zip(positions, scores.tolist(), strict=True)
        ]


def collect(
    config: Config, root: str, schema: Schema, tables: dict[str, Rows], scorer: Scorer, prior: Prior | None = None
) -> Neighbors:
    """The neighbors of a few nodes of each table, the largest tables first.

    Raises:
        OSError: rows or ids cannot be read.
        UserError: a vocabulary is broken.
    """
    manifest = read_manifest(root) if config.prepare is not None else None
    named = {name: _Table(name, open_ids(config, root, name, rows.size), rows) for name, rows in tables.items()}
    named = {name: table for name, table in named.items() if table.ids.size}
    found = []
    for table in sorted(named.values(), key=lambda table: -table.ids.size)[:TABLES_SHOWN]:
        chosen = _choose(root, table.name, table.ids.size, manifest)
        own = np.array([position for position, _ in chosen], np.int64)
        given = table.vectors(own)
        lists = [table.near("", similar(given), own, is_own=True)]
        for rel in _relations_of(table.name, set(named), schema, manifest):
            of, score = schema.relations[rel], answers(scorer, "rhs", rel, given)
            rows = named[of.rhs].rows
            if prior is not None and "rhs" in prior.sides:
                rows = prior.rows("rhs", rel, rows)
            lists.append(named[of.rhs].near(of.name, score, own, of.rhs == table.name, rows))
        nodes = [
            Node(name, row, degree, list(near))
            for name, row, (_, degree), *near in zip(
                table.ids.at(own), table.rows_at(own).tolist(), chosen, *lists, strict=True
            )
        ]
        found.append((table.name, nodes))
    sampled = [name for name, table in named.items() if len(table.searched) < table.ids.size]
    return Neighbors(found, _labels(found, manifest, root), sampled, K, SEARCHED)


def _labels(found: list[tuple[str, list[Node]]], manifest: Manifest | None, root: str) -> dict[str, dict[str, str]]:
    names: dict[str, list[str]] = {}
    for table, nodes in found:
        names.setdefault(table, []).extend(node.name for node in nodes)
        for near in (near for node in nodes for near in node.lists):
            names.setdefault(near.table, []).extend(name for name, _ in near.nodes)
    return {table: read_labels(manifest, root, table, of) for table, of in names.items()}


def _choose(root: str, table: str, size: int, manifest: Manifest | None) -> list[tuple[int, int | None]]:
    """Positions and degrees of nodes of high and median degree, or of any nodes if degrees are unknown."""
    files = next((entry.files for entry in manifest.tables if entry.name == table), []) if manifest else []
    if manifest is None or not files:
        positions = np.linspace(0, size - 1, min(size, 2 * NODES_PER_KIND)).astype(int)
        return [(int(position), None) for position in positions]
    url, _, footer = files[0].under(manifest.holder(root))
    with open_parquet(url, footer=footer) as file:
        degree = next(file.iter_batches(NAMES_READ, columns=["degree"]))["degree"].to_numpy()
    order = np.argsort(-degree, kind="stable")
    middle = np.count_nonzero(degree) // 2
    places = [*range(NODES_PER_KIND), *range(middle, middle + NODES_PER_KIND)]
    return [(int(order[at]), int(degree[order[at]])) for at in dict.fromkeys(places) if at < len(order)]


def _relations_of(table: str, tables: set[str], schema: Schema, manifest: Manifest | None) -> list[int]:
    """The relations with the most training edges that start at `table` and end at one of `tables`."""
    edges = {entry.name: entry.edges.get("train", 0) for entry in manifest.relations} if manifest else {}
    never_trained = negative_relations(schema.relations)
    starting = [
        rel
        for rel, of in enumerate(schema.relations)
        if of.lhs == table and of.rhs in tables and of.name not in never_trained
    ]
    return sorted(starting, key=lambda rel: -edges.get(schema.relations[rel].name, 0))[:RELATIONS_PER_TABLE]
