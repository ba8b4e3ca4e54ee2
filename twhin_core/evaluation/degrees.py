"""Figures by how many training edges a node has, from cold to hot: of the query's node, and of the answer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from twhin_core.config import Evaluation
from twhin_core.evaluation.metrics import (
    EDGES,
    Figures,
    Ranking,
    Sums,
    names,
    names_of_answers,
    prefix,
    weighted,
)
from twhin_core.ranking.queries import Ints
from twhin_core.schema import SIDES, Side

QUERY, ANSWER = "query", "answer"


def buckets(evaluation: Evaluation) -> list[str]:
    """Names of the buckets: for [1, 10, 100] they are 0, 1-9, 10-99 and 100+."""
    bounds = [0, *evaluation.degree_buckets]
    ranges = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in itertools.pairwise(bounds)]
    return [*ranges, f"{bounds[-1]}+"]


def bucket_of(degree: Ints, evaluation: Evaluation) -> Ints:
    """The number of each degree's bucket."""
    return np.searchsorted(evaluation.degree_buckets, degree, side="right")


def of_queries(sums: Sums, evaluation: Evaluation) -> Figures:
    """The metrics of each bucket that has queries. `sums`: by the bucket of the query's node."""
    return _named(sums, names(evaluation), evaluation)


def of_answers(ranking: Ranking, bucket: Mapping[Side, Ints], evaluation: Evaluation) -> Figures:
    """The metrics of each bucket that has answers. `bucket`: [H] per side, of the answer."""
    count = len(evaluation.degree_buckets) + 1
    sums = Sums({}, {})
    for side in SIDES:
        edges = ranking.held[side].edges.astype(np.float64)
        over = weighted(bucket[side], edges, count)
        sums.of[f"edges_{side}"] = over
        for name, values in ranking.values(side, evaluation.hits_at).items():
            of = weighted(bucket[side], values * edges, count)
            for key in (name, f"{name}_{side}"):
                sums.of[key] = sums.of.get(key, 0.0) + of
                sums.over[key] = sums.over.get(key, 0.0) + over
    return _named(sums, names_of_answers(evaluation), evaluation)


def _named(sums: Sums, shown: list[str], evaluation: Evaluation) -> Figures:
    """The metrics `shown` of each bucket that has edges, without those that nothing in the bucket counts for."""
    edges, start = sums.of["edges_lhs"] + sums.of["edges_rhs"], len(prefix(evaluation))
    figures: Figures = {}
    for number, name in enumerate(buckets(evaluation)[: len(edges)]):
        if edges[number]:
            counted = [metric for metric in shown if metric == EDGES or sums.over[metric[start:]][number]]
            figures[name] = sums.figures(number, counted, evaluation)
    return figures
