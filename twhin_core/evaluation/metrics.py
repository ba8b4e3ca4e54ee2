"""From ranks to figures, a relation and over all: the content of `evaluation/metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from twhin_core.config import Evaluation
from twhin_core.evaluation.held_out import HeldOut
from twhin_core.evaluation.placing import Outcome
from twhin_core.evaluation.queries import Ints
from twhin_core.evaluation.ranking import Floats, Places
from twhin_core.model.scorer import SIDES, Side

Figures = dict[str, dict[str, float]]
"""Figures by relation, or `all`, and name."""

Metrics = dict[str, Any]
"""`evaluation/metrics.json`, in this shape:

    {"test": {"all": {"mrr": …, "hits@10": …, "recall@20": …, "edges": …}, "<relation>": {…}},
     "baselines": {"popularity": {"all": {…}, "<relation>": {…}}, "random": {…}},
     "planted": {"all": {…}, …},            where the network was generated: the best reachable figures
     "checkpoint": 1000,                    the step evaluated
     "config": "<digest>",                  of the sections that say how to evaluate
     "graph": {"tables": {"<table>": rows}, "edges": {"<split>": edges}},
     "version": "…"}

The first key is the name of the split evaluated.
"""

ALL = "all"
MRR, AUC, EDGES = "mrr", "auc", "edges"


def names(evaluation: Evaluation) -> list[str]:
    """The metrics of a relation, in order."""
    hits = [f"hits@{k}" for k in evaluation.hits_at]
    both = [MRR, *hits]
    sides = [f"{name}_{side}" for side in SIDES for name in both]
    whole = [f"{name}@{k}" for name in ("recall", "ndcg") for k in evaluation.recall_at]
    return [*both, *sides, *whole, AUC, EDGES]


def compute(
    held: Mapping[Side, HeldOut],
    outcomes: Mapping[Side, Outcome],
    placed: Mapping[Side, Places],
    relations: list[str],
    evaluation: Evaluation,
) -> Figures:
    """The metrics of `all` edges and of each relation that has some, by name.

    - `mrr`, `hits@k`: mean over edges of 1/rank and of rank ≤ k, filtered; `_lhs` and `_rhs` of the queries for that
      side alone, without it over both.
    - `recall@k`, `ndcg@k`: mean over queries (lhs, rel) of the share of their held-out tails in the first k places,
      and of the discounted gain of these over that of min(k, held out) in the first places (gain 1, discount
      1/log2(1 + place)). A query whose held-out tails are all removed has none; 0 if there is no other.
    - `auc`: mean over edges and sides of the share of rivals that the answer outscores, half for a tie; 0.5 where it
      has no rival.
    """
    columns: dict[str, Floats] = {}
    edges = _sums(held["rhs"].rel, held["rhs"].edges.astype(np.float64), len(relations))
    for side in SIDES:
        rank, rivals, of = placed[side].rank, outcomes[side].rivals, held[side]
        hits = {f"hits@{k}": rank <= k for k in evaluation.hits_at}
        auc = np.where(rivals > 0, 1 - (rank - 1) / np.maximum(rivals, 1), 0.5)
        for name, value in {MRR: 1 / rank, **hits, AUC: auc}.items():
            columns[f"{name}_{side}"] = _sums(of.rel, value * of.edges, len(relations)) / np.maximum(edges, 1)
    for name in (MRR, *(f"hits@{k}" for k in evaluation.hits_at), AUC):
        columns[name] = (columns[f"{name}_lhs"] + columns[f"{name}_rhs"]) / 2
    columns.update(_of_whole_sets(held["rhs"], placed["rhs"], len(relations), evaluation.recall_at))
    columns[EDGES] = edges
    shown = names(evaluation)
    figures = {ALL: {name: float(columns[name][-1]) for name in shown}}
    for rel in np.flatnonzero(edges[:-1]).tolist():
        figures[relations[rel]] = {name: float(columns[name][rel]) for name in shown}
    for of_relation in figures.values():
        of_relation[EDGES] = int(of_relation[EDGES])
    return figures


def _of_whole_sets(held: HeldOut, placed: Places, relations: int, recall_at: list[int]) -> dict[str, Floats]:
    """recall@k and ndcg@k, each [relations + 1]."""
    kept = np.flatnonzero(~np.isnan(placed.position))
    queries, query = np.unique(held.query[kept], return_inverse=True)
    position, held_out = placed.position[kept], np.bincount(query, minlength=len(queries))
    rel = np.zeros(len(queries), np.int64)
    rel[query] = held.rel[kept]
    counted = np.maximum(_sums(rel, np.ones(len(queries)), relations), 1)
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, 1 + max(recall_at))))
    columns: dict[str, Floats] = {}
    for k in recall_at:
        among = position <= k
        found = np.bincount(query, among, minlength=len(queries))
        gain = np.bincount(query, among / np.log2(1 + position), minlength=len(queries))
        columns[f"recall@{k}"] = _sums(rel, found / held_out, relations) / counted
        columns[f"ndcg@{k}"] = _sums(rel, gain / ideal[np.minimum(k, held_out) - 1], relations) / counted
    return columns


def _sums(rel: Ints, value: npt.NDArray[np.float64], relations: int) -> Floats:
    """The sum of `value` a relation, and over all in the last place: [relations + 1]."""
    sums = np.bincount(rel, value, minlength=relations)
    return np.append(sums, sums.sum())
