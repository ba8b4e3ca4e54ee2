"""The neighbors of one node, among the nodes that an answer may have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from twhin_core.config import file as config_file
from twhin_core.config.recommend import Choice, not_by_index
from twhin_core.data.splits import open_known
from twhin_core.embeddings.known import OneNode, known_sides, left_out
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import Among, Query, candidates_of, find_nearest
from twhin_core.errors import UserError
from twhin_core.scratch import scratch
from twhin_core.vectors.ids import Ints, find_positions
from twhin_core.vectors.rows import SelectedRows


def read_choice(settings: Mapping[str, Any], command: str = "neighbors") -> Choice:
    """Raises UserError with one line that names the key."""
    return config_file.validate(Choice, settings, command)


def find_neighbors(
    result: Result, query: Query, position: int, name: str, k: int, choice: Choice, index: bool
) -> list[tuple[str, float]]:
    """Ids and scores of the k best candidates of the node `name`, which is at `position` in its table, best first.

    Args:
        choice: which nodes are candidates. Relations are left out only if `exclude` names them.
        index: search the exported index.

    Raises:
        UserError: as `TableEmbeddings.neighbors`.
    """
    count = _check(query, k, choice, index)
    with scratch("neighbors") as folder:
        among = _choose(result, query, choice, folder)
        out = _left_out(result, query, position, choice, folder)
    ids = result.scored.ids(query.candidates)
    size = result.schema.tables[query.candidates] if among is None else len(among.positions)
    more = min(count + len(out), size)  # `count` of them are not left out
    if index:
        from twhin_core.embeddings.index import search  # imports faiss, which is optional

        found = search(result, query, position, name, more)
    else:
        node = np.array([position])
        given = result.scored.rows(query.table).gather(node)
        ((scores, positions),) = find_nearest(result.scored, query, given, node, more, among)
        found = list(zip(ids.at(positions), scores, strict=True))
    names = set(ids.at(out))
    kept = [of for of in found if of[0] not in names][:count]
    if choice.rule is None:
        return kept
    from twhin_core.embeddings.rule import AppliedRule

    assert query.rel is not None
    rule = AppliedRule(choice.rule.name, result.schema.names[query.rel], "rule")
    return rule.filter([name], [kept], "index" if index else "vector", k)[0]


def _check(query: Query, k: int, choice: Choice, index: bool) -> int:
    """How many candidates to look for. Raises UserError if the choice does not fit the question."""
    if index and choice.chosen_by is not None:
        raise UserError(not_by_index(choice.chosen_by))
    if choice.rule is not None and (query.rel is None or query.side == "lhs"):
        raise UserError("rule: goes through lists of a relation's rhs; name the relation, and leave out side lhs")
    try:
        return choice.to_find(k)
    except ValueError as error:
        raise UserError(str(error)) from None


def _choose(result: Result, query: Query, choice: Choice, folder: Path) -> Among | None:
    """The candidates; None if they are all nodes of their table."""
    if choice.chosen_by is None:
        return None
    from twhin_core.embeddings.candidates import choose  # imports DuckDB

    source = result.scored
    rows, _ = choose(source, query, choice, "", folder)
    assert rows is not None
    positions, _ = find_positions(source.ids(query.candidates).index, rows)
    return Among(positions, SelectedRows(candidates_of(source, query), len(positions), positions))


def _left_out(result: Result, query: Query, position: int, choice: Choice, folder: Path) -> Ints:
    """Positions of what is left out of the node's answers. Reads all edges if known ones are."""
    source, schema = result.scored, result.schema
    sides = known_sides(schema, query, choice.exclude or ())
    splits = open_known(result.config, result.root, schema) if sides else []
    index = source.ids(query.table).index
    node = OneNode(position if index is None else int(index[position]))
    pairs = left_out(source, query, sides, choice, splits, node, folder)
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *(row for _, row in pairs)]))
    positions, is_named = find_positions(source.ids(query.candidates).index, rows)
    return positions[is_named]
