"""What the section `recommend` says of the answers to a relation, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twhin_core import sizes
from twhin_core.config.recommend import Recommend
from twhin_core.embeddings.candidates import choose
from twhin_core.embeddings.pairs import given_pairs
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.rule import AppliedRule, Scored
from twhin_core.embeddings.search import Among, Query, relation_named
from twhin_core.errors import TwhinError, UserError
from twhin_core.serving.vectors import HeldVectors
from twhin_core.vectors.adjacency import Adjacency, adjacency
from twhin_core.vectors.held import hold_rows
from twhin_core.vectors.ids import find_positions
from twhin_core.vectors.rows import Ints, SelectedRows


@dataclass(frozen=True)
class Chosen:
    """Which nodes recommendations by a relation may have."""

    among: Among | None
    """The candidates; None if they are all nodes of the rhs table."""
    pairs: Adjacency | None
    """The rows of what is left out of the answers to each row of the lhs table, beside known edges."""
    rule: AppliedRule | None
    fetch: int
    """How many candidates the rule is asked about, at least."""

    def left_out(self, row: int) -> Ints:
        """Rows of candidates that pairs leave out of the answers to the user at a row."""
        return np.empty(0, np.int64) if self.pairs is None else self.pairs.of(row)

    def filter(
        self, users: Sequence[str], lists: Sequence[Sequence[Scored]], source: str, k: int
    ) -> list[list[Scored]]:
        """As `AppliedRule.filter`. Raises TwhinError if the rule does not do what it must."""
        assert self.rule is not None
        try:
            return self.rule.filter(users, lists, source, k)
        except UserError as error:  # not a mistake of whoever asks
            raise TwhinError(str(error)) from error


def read_chosen(result: Result, vectors: HeldVectors, folder: Path) -> dict[int, Chosen]:
    """By relation of the section `recommend`. Holds the vectors of chosen candidates in files.

    Args:
        folder: for these files. It may be removed when this returns.

    Raises:
        StorageRefused: there is no room in the folder.
        UserError: there is no such relation, nothing is a candidate, a file is broken, or a rule does not load.
    """
    return {
        (rel := relation_named(result.schema, name, "recommend: ")): _read(result, vectors, rel, settings, folder)
        for name, settings in result.config.recommend.items()
    }


def _read(result: Result, vectors: HeldVectors, rel: int, settings: Recommend, folder: Path) -> Chosen:
    schema, name = result.schema, result.schema.names[rel]
    query, among, pairs = Query(schema.table_of(rel, "lhs"), schema.table_of(rel, "rhs"), rel), None, None
    if settings.chosen_by is not None:
        rows, _ = choose(result.scored, query, settings, f"recommend.{name}.", folder)
        assert rows is not None
        positions, _ = find_positions(vectors.ids(query.candidates).index, rows)
        selected = SelectedRows(vectors.candidates("rhs", rel), len(positions), positions)
        among = Among(positions, hold_rows(selected, folder / f"{rel}.chosen"))
    if settings.exclude_edges is not None:
        memory = sizes.in_bytes(result.config.evaluation.memory_limit) // 4
        nothing = np.empty(0, np.int64)
        found = [(nothing, nothing), *given_pairs(result.scored, query, settings.exclude_edges, folder, memory)]
        users, candidates = (np.concatenate(of) for of in zip(*found, strict=True))
        pairs = adjacency(users, candidates, schema.tables[query.table])
    rule = None if settings.rule is None else AppliedRule(settings.rule.name, name, f"recommend.{name}.rule")
    return Chosen(among, pairs, rule, 0 if settings.rule is None else settings.rule.fetch)
