"""Draws the candidates of sampled ranking."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from twhin_core.config import Evaluation
from twhin_core.errors import UserError
from twhin_core.evaluation.candidates import CandidateSet
from twhin_core.evaluation.node_counts import NodeCounts
from twhin_core.evaluation.queries import Ints
from twhin_core.schema import SIDES, Schema


def check(evaluation: Evaluation, schema: Schema) -> None:
    """Raises UserError where a table has fewer rows than candidates are asked for."""
    for rel, relation in enumerate(schema.relations):
        for side in SIDES:
            table = schema.table_of(rel, side)
            rows = schema.tables[table]
            if evaluation.candidates is not None and evaluation.candidates > rows:
                raise UserError(
                    f"evaluation.candidates: {evaluation.candidates:,} are more than the {rows:,} nodes of table "
                    f"{table}, an end of relation {relation.name}; leave it out to rank among all"
                )


class Sampler:
    """The same candidates of a table for the same seed, whatever asks for them."""

    def __init__(self, evaluation: Evaluation, schema: Schema, degrees: NodeCounts) -> None:
        self._evaluation, self._schema, self._degrees = evaluation, schema, degrees
        self._drawn: dict[tuple[str, str], Ints] = {}

    def sample(self, candidates: CandidateSet) -> CandidateSet:
        """With candidates drawn; as they are, where ranks are exact."""
        count = self._evaluation.candidates
        if count is None:
            return candidates
        key = candidates.side, candidates.table
        if key not in self._drawn:
            # A name's checksum, since Python's own hashes differ between processes.
            seed = [self._evaluation.seed, 4, candidates.side == "lhs", zlib.crc32(candidates.table.encode())]
            generator = np.random.default_rng(seed)
            rows = self._schema.tables[candidates.table]
            if self._evaluation.candidates_power:
                self._drawn[key] = self._by_degree(candidates.table, rows, count, generator)
            else:
                self._drawn[key] = np.sort(generator.choice(rows, count, replace=False, shuffle=False))
        return replace(candidates, size=count, drawn=self._drawn[key])

    def _by_degree(self, table: str, rows: int, count: int, generator: np.random.Generator) -> Ints:
        """With replacement, in proportion to degree^power; uniformly where no node has an edge."""
        group, power = list(self._schema.tables).index(table), self._evaluation.candidates_power
        total = sum(float((degree**power).sum()) for _, degree in self._degrees.of_group(group))
        if not total:
            return np.sort(generator.integers(rows, size=count))
        share = np.sort(generator.random(count)) * total
        drawn, before = np.empty(0, np.int64), 0.0
        for node, degree in self._degrees.of_group(group):
            up_to = before + np.cumsum(degree**power)
            if len(node):
                place = np.searchsorted(up_to, share[len(drawn) :], side="right")
                drawn = np.append(drawn, node[place[place < len(node)]])
                before, last = up_to[-1], node[-1]
        return np.append(drawn, np.full(count - len(drawn), last))  # rounding can carry a share past the end
