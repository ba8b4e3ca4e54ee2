"""What is near a few nodes: in their own table, and as answers of the relations that start there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.evaluation.report.sample import Chosen, sample_rows
from twhin_core.evaluation.report.vectors import TABLES_SHOWN
from twhin_core.graph.manifest import Manifest, Schema, read_manifest
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import open_parquet
from twhin_core.vectors.names import NAMES_A_BATCH, read_names
from twhin_core.vectors.rows import Rows
from twhin_core.vectors.top_k import Score, answers, similar, top_k

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

Ints = npt.NDArray[np.int64]


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
    """One list for each of a table's chosen nodes, before the rows have their names."""

    of: str
    table: str
    scores: Tensor
    rows: Ints


def collect(config: Config, root: str, schema: Schema, tables: dict[str, Rows], scorer: Scorer) -> Neighbours:
    """The neighbours of a few nodes of each table, the largest tables first.

    Raises:
        OSError: rows or names cannot be read.
        UserError: a broken vocabulary.
    """
    manifest = read_manifest(root) if config.prepare is not None else None
    shown = sorted(tables, key=lambda name: -tables[name].size)[:TABLES_SHOWN]
    searched = {name: Chosen(rows, sample_rows(rows.size, SEARCHED, stretch=STRETCH)) for name, rows in tables.items()}
    searches: dict[str, list[_Search]] = {}
    chosen = {name: _choose(root, name, tables[name].size, manifest) for name in shown}
    for name in shown:
        own = np.array([row for row, _ in chosen[name]], np.int64)
        given = tables[name].gather(own)
        searches[name] = [_search("", name, similar(given), own, searched[name], leave_out=own)]
        for rel in _relations_of(name, tables, schema, manifest):
            relation = schema.relations[rel]
            score = answers(scorer, "rhs", rel, given)
            leave_out = own if relation.rhs == name else None
            searches[name].append(_search(relation.name, relation.rhs, score, own, searched[relation.rhs], leave_out))
    names = _names(config, root, tables, chosen, searches)
    found = [(name, _nodes(name, chosen[name], searches[name], names)) for name in shown]
    sampled = [name for name in tables if searched[name].size < tables[name].size]
    return Neighbours(found, sampled, K, SEARCHED)


def _choose(root: str, table: str, size: int, manifest: Manifest | None) -> list[tuple[int, int | None]]:
    """Rows and degrees: those with the most edges and those in the middle, or any where degrees are not known."""
    files = next((entry.files for entry in manifest.tables if entry.name == table), []) if manifest else []
    if not files or not files[0].rows:
        return [(int(row), None) for row in np.linspace(0, size - 1, min(size, 2 * OF_EACH_KIND)).astype(np.int64)]
    with open_parquet(storage.join(root, files[0].path)) as file:
        batch = next(file.iter_batches(NAMES_LOOKED_AT, columns=["index", "degree"]))
    index, degree = batch["index"].to_numpy(), batch["degree"].to_numpy()
    order = np.argsort(-degree, kind="stable")
    middle = np.count_nonzero(degree) // 2
    places = [*range(OF_EACH_KIND), *range(middle, middle + OF_EACH_KIND)]
    return [(int(index[order[at]]), int(degree[order[at]])) for at in dict.fromkeys(places) if at < len(order)]


def _relations_of(table: str, tables: dict[str, Rows], schema: Schema, manifest: Manifest | None) -> list[int]:
    """The relations that start at `table`, those with the most training edges."""
    edges = {entry.name: entry.edges.get("train", 0) for entry in manifest.relations} if manifest else {}
    starting = [rel for rel, of in enumerate(schema.relations) if of.lhs == table and of.rhs in tables]
    return sorted(starting, key=lambda rel: -edges.get(schema.relations[rel].name, 0))[:RELATIONS_A_TABLE]


def _search(of: str, table: str, score: Score, own: Ints, among: Chosen, leave_out: Ints | None = None) -> _Search:
    """The best of `among` for each of `own`; rows to be left out of it are given one for each."""
    exclude = None
    if leave_out is not None:
        at = np.searchsorted(among.chosen, leave_out).clip(max=among.size - 1)
        exclude = torch.from_numpy(np.where(among.chosen[at] == leave_out, at, -1))
    scores, places = top_k(score, len(own), among, K, exclude)
    return _Search(of, table, scores, among.chosen[places.numpy()])


def _names(
    config: Config,
    root: str,
    tables: dict[str, Rows],
    chosen: dict[str, list[tuple[int, int | None]]],
    searches: dict[str, list[_Search]],
) -> dict[str, dict[int, str]]:
    """The ids of all rows that occur, by table; each vocabulary is read once."""
    wanted: dict[str, list[Ints]] = {}
    for name, nodes in chosen.items():
        wanted.setdefault(name, []).append(np.array([row for row, _ in nodes], np.int64))
    for search in (search for of in searches.values() for search in of):
        wanted.setdefault(search.table, []).append(search.rows.reshape(-1))
    names: dict[str, dict[int, str]] = {}
    for name, parts in wanted.items():
        rows, found = np.unique(np.concatenate(parts)), names.setdefault(name, {})
        for batch in read_names(config, root, name, tables[name].size, NAMES_A_BATCH):
            index = batch["index"].to_numpy()
            places = np.flatnonzero(np.isin(index, rows, assume_unique=True)).tolist()
            found.update((int(index[place]), batch["id"][place].as_py()) for place in places)
    return names


def _nodes(
    table: str, chosen: list[tuple[int, int | None]], searches: list[_Search], names: dict[str, dict[int, str]]
) -> list[Node]:
    def name_of(table: str, row: int) -> str:
        return names[table].get(row, f"row {row}")  # a vocabulary of someone else's need not name every row

    def near(search: _Search, position: int) -> Near:
        rows, scores = search.rows[position].tolist(), search.scores[position].tolist()
        nodes = [(name_of(search.table, row), score) for row, score in zip(rows, scores, strict=True)]
        return Near(search.of, search.table, nodes)

    return [
        Node(name_of(table, row), degree, [near(search, position) for search in searches])
        for position, (row, degree) in enumerate(chosen)
    ]
