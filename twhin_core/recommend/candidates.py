"""The nodes that lists are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from twhin_core.config.recommend import Recommend
from twhin_core.embeddings.candidates import choose
from twhin_core.embeddings.search import Query
from twhin_core.export.vector_set import TrainedRun
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.schema import Schema


def query_of(schema: Schema, rel: int) -> Query:
    """What lists of a relation answer: its rhs, for each node at its lhs."""
    return Query(schema.table_of(rel, "lhs"), schema.table_of(rel, "rhs"), rel)


def candidates_of(run: TrainedRun, rel: int, settings: Recommend, folder: Path) -> tuple[CandidateSet, int]:
    """As `choose`, for the lists of a relation."""
    query = query_of(run.schema, rel)
    rows, unknown = choose(run, query, settings, f"recommend.{run.schema.names[rel]}.", folder)
    size = run.ids(query.candidates).size if rows is None else len(rows)
    return CandidateSet("rhs", query.candidates, np.array([rel]), size, rows), unknown
