"""The best ranking that a generated network allows: by the rates from which its edges were drawn.

An edge exists if at least one interaction was drawn, with probability 1 - exp(-n · rate). Given all other edges, the
probability of a held-out edge therefore increases with its rate, whichever end is asked for, and no ranking is better
than that by rate.
"""

from __future__ import annotations

import numpy as np

from twhin_core.config import Config
from twhin_core.config.generate import Generate
from twhin_core.evaluation.baselines import rank_by_counts
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import FilteredQueries, Floats, Ints
from twhin_core.ranking.ranks import AnswerRanks, RankQueries
from twhin_core.schema import OTHER, Schema
from twhin_core.synthetic.generate import numbers
from twhin_core.synthetic.planted import plant
from twhin_core.vectors.ids import IDS_PER_BATCH
from twhin_core.vectors.names import open_ids

BLOCK = 1 << 17
"""Rates computed at a time, which fit into a processor's cache."""


def node_numbers(config: Config, root: str, schema: Schema) -> dict[str, Ints]:
    """Of each row of a generated network's tables, the node's number in the network."""
    found = {}
    for table, rows in schema.tables.items():
        batches = open_ids(config, root, table, rows).batches(IDS_PER_BATCH)
        found[table] = np.concatenate([numbers(batch["id"]) for batch in batches])
    return found


class PlantedRates:
    """Scores an edge by its planted rate."""

    def __init__(self, settings: Generate, schema: Schema, numbers: dict[str, Ints]) -> None:
        """`numbers`: of each row of a table, as `node_numbers` gives them."""
        self._schema, self._numbers = schema, numbers
        self._planted = {of.kind.name: of for of in plant(settings, np.random.default_rng(settings.seed))}

    def among(self, candidates: CandidateSet, queries: int) -> RankQueries:
        """See `Ranker.among`."""
        return lambda chunk: self._rank(candidates, chunk)

    def _rank(self, candidates: CandidateSet, queries: FilteredQueries) -> AnswerRanks:
        score = np.empty(len(queries.answer))
        held = queries.edges > 0
        more, equal = np.zeros_like(queries.answer), np.zeros_like(queries.answer)
        among = np.arange(candidates.size) if candidates.drawn is None else candidates.drawn
        for rel in np.unique(queries.rel).tolist():
            of_relation = queries.rel[queries.query] == rel
            mine = np.flatnonzero(of_relation)
            score[mine] = self._rates(queries, rel, mine, queries.answer[mine])
            mine = np.flatnonzero(of_relation & held)
            for block in np.array_split(mine, -(-len(mine) * len(among) // BLOCK) or 1):
                rates = self._rates(queries, rel, block[:, None], among[None])
                own = score[block, None]
                more[block], equal[block] = (rates > own).sum(1), (rates == own).sum(1)
        return rank_by_counts(candidates, queries, score, more[held], equal[held])

    def _rates(self, queries: FilteredQueries, rel: int, index: Ints, answer: Ints) -> Floats:
        """The rates of the queries of known answers with other `answer`s; index and answer broadcast."""
        side, planted = queries.side, self._planted[self._schema.relations[rel].name]
        node = queries.node[queries.query[index]]
        given = self._numbers[self._schema.table_of(rel, OTHER[side])][node]
        asked = self._numbers[self._schema.table_of(rel, side)][answer]
        return planted.rates(given, asked) if side == "rhs" else planted.rates(asked, given)
