"""Figures from sums, a relation and over all."""

from __future__ import annotations

import numpy as np

from twhin_core.config import Evaluation
from twhin_core.evaluation.metrics import ALL, EDGES, Figures, names, prefix
from twhin_core.evaluation.sums import Sums


def of_relations(sums: Sums, relations: list[str], evaluation: Evaluation) -> Figures:
    """The metrics of `all` edges and of each relation that has some, by name.

    - `mrr`, `hits@k`: mean over edges of 1/rank and of rank ≤ k, filtered; `_lhs` and `_rhs` of the queries for that
      side alone, without it over both.
    - `recall@k`, `ndcg@k`: mean over queries (lhs, rel) of the share of their held-out tails in the first k places,
      and of the discounted gain of these over that of min(k, held out) in the first places (gain 1, discount
      1/log2(1 + place)). A query whose held-out tails are all removed has none; 0 if there is no other.
    - `auc`: mean over edges and sides of the share of rivals that the answer outscores, half for a tie; 0.5 where it
      has no rival.

    Args:
        sums: by relation.
    """
    total = Sums(*({name: values.sum(keepdims=True) for name, values in of.items()} for of in (sums.of, sums.over)))
    figures = {ALL: figures_of(total, 0, names(evaluation), evaluation) | {EDGES: int(total.of["edges_rhs"][0])}}
    for rel in np.flatnonzero(sums.of["edges_rhs"]).tolist():
        edges = {EDGES: int(sums.of["edges_rhs"][rel])}
        figures[relations[rel]] = figures_of(sums, rel, names(evaluation), evaluation) | edges
    return figures


def figures_of(sums: Sums, label: int, shown: list[str], evaluation: Evaluation) -> dict[str, float]:
    """The metrics `shown` of one label; `edges` counts an edge once for each side on which it has the label."""
    edges = int(sums.of["edges_lhs"][label] + sums.of["edges_rhs"][label])
    start = len(prefix(evaluation))
    return {name: sums.figure(name[start:], label) for name in shown if name != EDGES} | {EDGES: edges}
