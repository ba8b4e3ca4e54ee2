"""What is near a few nodes: in their own table, and as answers of the relations that start there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.graph.manifest import Manifest, read_manifest
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import open_parquet
from twhin_core.report.vectors import TABLES_SHOWN, sample_rows
from twhin_core.schema import Schema
from twhin_core.vectors.ids import Ids
from twhin_core.vectors.names import open_ids
from twhin_core.vectors.rows import Ints, Rows, SelectedRows
from twhin_core.vectors.top_k import Score, answers, similar, top_k

if TYPE_CHECKING:
    from torch import Tensor

K = 5
OF_EACH_KIND = 2
"""Nodes of a table that are shown: as many with the most training edges, and as many in the middle."""

RELATIONS_A_TABLE = 2

SEARCHED = 1_000_000
"""Rows of a table that are compared; of a larger one, a sample."""

STRETCH = 1000
"""Neighbouring rows of a sample, so that it is read in large parts."""

NAMES_LOOKED_AT = 65_536
"""The nodes shown are among the first of the vocabulary, whose order, that of a hash, has nothing to do with them."""


@dataclass(frozen=True)
class Near:
    """A list of neighbours: (id, score), best first."""

    of: str
    """The relation, or empty for the table itself."""
    table: str
    nodes: list[tuple[str, float]]


@dataclass(frozen=True)
class Node:
    """A node and what is near it."""

    name: str
    degree: int | None
    """Its training edges, where they are known."""
    lists: list[Near]


@dataclass(frozen=True)
class Neighbours:
    """Nodes by table; `sampled` names the tables of which only `SEARCHED` rows were compared."""

    tables: list[tuple[str, list[Node]]]
    sampled: list[str]
    k: int
    searched: int


@dataclass(frozen=True)
class _Search:
    """One list for each of a table's chosen nodes, before they have their names."""

    of: str
    table: str
    scores: Tensor
    positions: Ints


class _Table:
    """The nodes of a table that have ids, by their position among these, and those of them that are searched."""

    def __init__(self, ids: Ids, rows: Rows) -> None:
        self.ids, self.rows = ids, rows
        self.searched = sample_rows(ids.size, SEARCHED, stretch=STRETCH)
        self.candidates = SelectedRows(rows, len(self.searched), self._rows_at(self.searched))

    def _rows_at(self, positions: Ints) -> Ints:
        # A vocabulary of someone else's need not name every row.
        return positions if self.ids.index is None else self.ids.index[positions]

    def vectors(self, positions: Ints) -> Tensor:
        return self.rows.gather(self._rows_at(positions))


def collect(config: Config, root: str, schema: Schema, tables: dict[str, Rows], scorer: Scorer) -> Neighbours:
    """The neighbours of a few nodes of each table, the largest tables first.

    Raises:
        OSError: rows or names cannot be read.
        UserError: a broken vocabulary.
    """
    manifest = read_manifest(root) if config.prepare is not None else None
    named = {name: _Table(open_ids(config, root, name, rows.size), rows) for name, rows in tables.items()}
    named = {name: table for name, table in named.items() if table.ids.size}
    shown = sorted(named, key=lambda name: -named[name].ids.size)[:TABLES_SHOWN]
    chosen = {name: _choose(root, name, named[name].ids.size, manifest) for name in shown}
    searches: dict[str, list[_Search]] = {}
    for name in shown:
        own = np.array([position for position, _ in chosen[name]], np.int64)
        given = named[name].vectors(own)
        searches[name] = [_search("", name, named[name], similar(given), own, is_own=True)]
        for rel in _relations_of(name, set(named), schema, manifest):
            of, score = schema.relations[rel], answers(scorer, "rhs", rel, given)
            searches[name].append(_search(of.name, of.rhs, named[of.rhs], score, own, is_own=of.rhs == name))
    names = _names(named, chosen, searches)
    found = [(name, _nodes(name, chosen[name], searches[name], names)) for name in shown]
    sampled = [name for name, table in named.items() if len(table.searched) < table.ids.size]
    return Neighbours(found, sampled, K, SEARCHED)


def _choose(root: str, table: str, size: int, manifest: Manifest | None) -> list[tuple[int, int | None]]:
    """Positions and degrees: with the most edges and in the middle, or any where degrees are not known."""
    files = next((entry.files for entry in manifest.tables if entry.name == table), []) if manifest else []
    if not files:
        return [(int(position), None) for position in np.linspace(0, size - 1, min(size, 2 * OF_EACH_KIND)).astype(int)]
    with open_parquet(storage.join(root, files[0].path)) as file:
        batch = next(file.iter_batches(NAMES_LOOKED_AT, columns=["index", "degree"]))
    index, degree = batch["index"].to_numpy(), batch["degree"].to_numpy()
    order = np.argsort(-degree, kind="stable")
    middle = np.count_nonzero(degree) // 2
    places = [*range(OF_EACH_KIND), *range(middle, middle + OF_EACH_KIND)]
    return [(int(index[order[at]]), int(degree[order[at]])) for at in dict.fromkeys(places) if at < len(order)]


def _relations_of(table: str, tables: set[str], schema: Schema, manifest: Manifest | None) -> list[int]:
    """The relations that start at `table` and end at one of `tables`, those with the most training edges."""
    edges = {entry.name: entry.edges.get("train", 0) for entry in manifest.relations} if manifest else {}
    starting = [rel for rel, of in enumerate(schema.relations) if of.lhs == table and of.rhs in tables]
    return sorted(starting, key=lambda rel: -edges.get(schema.relations[rel].name, 0))[:RELATIONS_A_TABLE]


def _search(of: str, name: str, table: _Table, score: Score, own: Ints, is_own: bool) -> _Search:
    """The best of `table` for each of `own`, without itself where these are its nodes."""
    import torch

    exclude = None
    if is_own:
        at = np.searchsorted(table.searched, own).clip(max=len(table.searched) - 1)
        exclude = torch.from_numpy(np.where(table.searched[at] == own, at, -1))
    scores, places = top_k(score, len(own), table.candidates, K, exclude)
    return _Search(of, name, scores, table.searched[places.numpy()])


def _names(
    named: dict[str, _Table], chosen: dict[str, list[tuple[int, int | None]]], searches: dict[str, list[_Search]]
) -> dict[str, dict[int, str]]:
    """The ids of all positions that occur, by table."""
    wanted: dict[str, list[Ints]] = {}
    for name, nodes in chosen.items():
        wanted.setdefault(name, []).append(np.array([position for position, _ in nodes], np.int64))
    for search in (search for of in searches.values() for search in of):
        wanted.setdefault(search.table, []).append(search.positions.reshape(-1))
    names = {}
    for name, parts in wanted.items():
        positions = np.unique(np.concatenate(parts))
        names[name] = dict(zip(positions.tolist(), named[name].ids.at(positions), strict=True))
    return names


def _nodes(
    table: str, chosen: list[tuple[int, int | None]], searches: list[_Search], names: dict[str, dict[int, str]]
) -> list[Node]:
    def near(search: _Search, number: int) -> Near:
        positions, scores = search.positions[number].tolist(), search.scores[number].tolist()
        nodes = [(names[search.table][at], score) for at, score in zip(positions, scores, strict=True)]
        return Near(search.of, search.table, nodes)

    return [
        Node(names[table][position], degree, [near(search, number) for search in searches])
        for number, (position, degree) in enumerate(chosen)
    ]
