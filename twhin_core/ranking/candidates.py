"""The nodes that can answer a query: all rows of a table or, for sampled ranking, rows drawn from it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from twhin_core.config import Evaluation, Model
from twhin_core.data.frequencies import StoredFrequencies
from twhin_core.errors import UserError
from twhin_core.ranking.queries import FilteredQueries, Ints
from twhin_core.schema import Schema, Side


@dataclass(frozen=True)
class CandidateSet:
    """The candidates of queries for `side` of some relations. Their projection is the same for all of these queries."""

    side: Side
    table: str
    relations: Ints
    size: int
    """N, the number of candidates."""
    drawn: Ints | None = None
    """[N] the rows of the candidates, ascending, possibly repeated; None if they are all rows."""

    def columns(self, answers: Ints) -> tuple[Ints, Ints]:
        """(number of the candidate, index into `answers`) for each answer that is a candidate."""
        if self.drawn is None:
            return answers, np.arange(len(answers))
        first, last = (np.searchsorted(self.drawn, answers, side=end) for end in ("left", "right"))
        times = last - first
        index = np.repeat(np.arange(len(answers)), times)
        before = np.cumsum(times) - times
        return first[index] + np.arange(len(index)) - before[index], index

    def negatives(self, queries: FilteredQueries) -> Ints:
        """[Q] how many candidates are not known answers of each query."""
        _, answer = self.columns(queries.answer)
        return self.size - np.bincount(queries.query[answer], minlength=len(queries))


def candidate_sets(models: Sequence[Model], schema: Schema, side: Side) -> list[CandidateSet]:
    """The sets of all relations: one per table if relations share candidates in all models, else one per relation."""
    from twhin_core.model.scorer import relations_share_candidates  # imports torch

    together = all(relations_share_candidates(model, side) for model in models)
    groups: dict[tuple[str, int], list[int]] = {}
    for rel in range(len(schema.relations)):
        groups.setdefault((schema.table_of(rel, side), 0 if together else rel), []).append(rel)
    return [
        CandidateSet(side, table, np.array(rels, np.int64), schema.tables[table]) for (table, _), rels in groups.items()
    ]


def check_candidates(evaluation: Evaluation, schema: Schema) -> None:
    """Raises UserError if `evaluation.candidates` exceeds the rows of a table."""
    if evaluation.candidates is None:
        return
    for relation in schema.relations:
        for table in (relation.lhs, relation.rhs):
            rows = schema.tables[table]
            if evaluation.candidates > rows:
                raise UserError(
                    f"evaluation.candidates: {evaluation.candidates:,} are more than the {rows:,} nodes of table "
                    f"{table}, an end of relation {relation.name}; leave it out to rank among all"
                )


class Sampler:
    """Draws candidates. With the same seed, a table's candidates are the same for every ranker."""

    def __init__(self, evaluation: Evaluation, schema: Schema, degrees: StoredFrequencies) -> None:
        self._evaluation, self._schema, self._degrees = evaluation, schema, degrees
        self._drawn: dict[tuple[str, str], Ints] = {}

    def sample(self, candidates: CandidateSet) -> CandidateSet:
        """The set with its candidates drawn; unchanged if ranks are exact."""
        count = self._evaluation.candidates
        if count is None:
            return candidates
        key = candidates.side, candidates.table
        if key not in self._drawn:
            # A checksum of the name, because Python's own hashes differ between processes.
            seed = [self._evaluation.seed, 4, candidates.side == "lhs", zlib.crc32(candidates.table.encode())]
            generator = np.random.default_rng(seed)
            rows = self._schema.tables[candidates.table]
            if self._evaluation.candidates_power:
                self._drawn[key] = self._by_degree(candidates.table, rows, count, generator)
            else:
                self._drawn[key] = np.sort(generator.choice(rows, count, replace=False, shuffle=False))
        return replace(candidates, size=count, drawn=self._drawn[key])

    def _by_degree(self, table: str, rows: int, count: int, generator: np.random.Generator) -> Ints:
        """Draws with replacement, in proportion to degree^power; uniformly if no node has an edge."""
        group, power = list(self._schema.tables).index(table), self._evaluation.candidates_power
        total = sum(float((degree**power).sum()) for _, degree in self._degrees.of_group(group))
        if not total:
            return np.sort(generator.integers(rows, size=count))
        share = np.sort(generator.random(count)) * total
        drawn, before = np.empty(0, np.int64), 0.0
        for node, degree in self._degrees.of_group(group):
            up_to = before + np.cumsum(degree**power)
            if len(node):
                at = np.searchsorted(up_to, share[len(drawn) :], side="right")
                drawn = np.append(drawn, node[at[at < len(node)]])
                before, last = up_to[-1], node[-1]
        return np.append(drawn, np.full(count - len(drawn), last))  # rounding can carry a share past the end
