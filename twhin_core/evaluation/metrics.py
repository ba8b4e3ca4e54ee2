"""The metrics of a ranking, summed over queries and averaged, and the content of `evaluation/metrics.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twhin_core.config import Evaluation
from twhin_core.ranking.queries import Floats, HeldOut, Ints
from twhin_core.ranking.ranks import AnswerRanks
from twhin_core.schema import SIDES, Side

if TYPE_CHECKING:
    from twhin_core.evaluation.task import RankingResult

Figures = dict[str, dict[str, float]]
"""Figures by relation, or `all`, and name."""

Metrics = dict[str, Any]
"""`evaluation/metrics.json`, in this shape:

    {"test": {"all": {"mrr": …, "hits@10": …, "recall@20": …, "edges": …}, "<relation>": {…}},
     "intervals": {"all": {"mrr": [low, high], …}, "<relation>": {…}},    95 %, over queries, of the model's figures
     "degrees": {"model": {"query": {"0": {…}, "1-9": {…}}, "answer": {…}}, "popularity": {…}},
     "baselines": {"popularity": {"all": {…}, "<relation>": {…}}, "random": {…}, "previous": {…}},
     "candidates": {"count": 1000, "power": 0.0},    null where ranks are among all nodes
     "planted": {"all": {…}, …},            where the network was generated: the best reachable figures
     "checkpoint": 1000,                    the step evaluated
     "config": "<digest>",                  of the sections that say how to evaluate
     "graph": {"tables": {"<table>": rows}, "edges": {"<split>": edges}},
     "version": "…"}

The first key is the name of the split evaluated. Names of figures begin with `sampled_` where ranks are among sampled
candidates, and no such figure is mistaken for an exact one.
"""

ALL = "all"
MRR, AUC, EDGES = "mrr", "auc", "edges"
AUC_REFERENCE = "auc_reference"
"""Of `all` alone, and of models only: see `reference_auc.py`."""
SAMPLED = "sampled_"
MODEL, POPULARITY, RANDOM, PREVIOUS = "model", "popularity", "random", "previous"


def prefix(evaluation: Evaluation) -> str:
    """How the names of figures begin."""
    return "" if evaluation.candidates is None else SAMPLED


def names(evaluation: Evaluation) -> list[str]:
    """The metrics of a relation, in order."""
    of_lists = [f"{name}@{k}" for name in ("recall", "ndcg") for k in evaluation.recall_at]
    return [prefix(evaluation) + name for name in (*_of_answers(evaluation), *of_lists, AUC)] + [EDGES]


def names_of_all(evaluation: Evaluation) -> list[str]:
    """The metrics of all relations together, of a model."""
    return [*names(evaluation), prefix(evaluation) + AUC_REFERENCE]


def names_of_answers(evaluation: Evaluation) -> list[str]:
    """The metrics that single answers have, which are those of a degree bucket of the answer."""
    return [prefix(evaluation) + name for name in (*_of_answers(evaluation), AUC)] + [EDGES]


def _of_answers(evaluation: Evaluation) -> list[str]:
    both = [MRR, *(f"hits@{k}" for k in evaluation.hits_at)]
    return [*both, *(f"{name}_{side}" for side in SIDES for name in both)]


def split_of(metrics: Metrics) -> tuple[str, Figures]:
    """The name of the split evaluated, and its figures."""
    split = "test" if "test" in metrics else "validation"
    return split, metrics[split]


@dataclass(frozen=True)
class Ranking:
    """All held-out edges as one model or baseline ranks them. Its queries are those for the lhs, then for the rhs."""

    held: Mapping[Side, HeldOut]
    results: Mapping[Side, RankingResult]
    ranks: Mapping[Side, AnswerRanks]

    def values(self, side: Side, hits_at: list[int]) -> dict[str, Floats]:
        """[H] what each held-out edge adds to a figure."""
        rank, negatives = self.ranks[side].rank, self.results[side].negatives
        hits = {f"hits@{k}": (rank <= k).astype(np.float64) for k in hits_at}
        auc = np.where(negatives > 0, 1 - (rank - 1) / np.maximum(negatives, 1), 0.5)
        return {MRR: 1 / rank, **hits, AUC: auc}


@dataclass(frozen=True)
class Sums:
    """What figures are made of: each is `of[name] / over[name]`, both [n], for every of n labels."""

    of: dict[str, Floats]
    over: dict[str, Floats]

    def figures(self, label: int, names: list[str], evaluation: Evaluation) -> dict[str, float]:
        """The named figures of a label, 0 where there is nothing to average. `edges` counts an edge per side."""
        edges = int(self.of["edges_lhs"][label] + self.of["edges_rhs"][label])
        keys = {name: name[len(prefix(evaluation)) :] for name in names if name != EDGES}
        values = {name: float(self.of[key][label] / max(self.over[key][label], 1e-300)) for name, key in keys.items()}
        return values | {EDGES: edges}


def sum_up(ranking: Ranking, evaluation: Evaluation, labels: Mapping[str, Ints]) -> dict[str, Sums]:
    """The sums by each kind of label, of which every query has one: a small number from 0 on."""
    sizes = {kind: 1 + int(label.max(initial=-1)) for kind, label in labels.items()}
    sums = {kind: Sums({}, {}) for kind in labels}
    for name, of, over in _terms(ranking, evaluation):
        for kind, label in labels.items():
            sums[kind].of[name] = weighted(label, of, sizes[kind])
            sums[kind].over[name] = weighted(label, over, sizes[kind])
    return sums


def of_relations(sums: Sums, relations: list[str], evaluation: Evaluation) -> Figures:
    """The metrics of `all` edges and of each relation that has some, by name.

    - `mrr`, `hits@k`: mean over edges of 1/rank and of rank ≤ k, filtered, over both sides; `_lhs` and `_rhs` of the
      queries for that side alone.
    - `recall@k`, `ndcg@k`: mean over queries (lhs, rel, ?) of the share of their held-out answers with a list rank of
      at most k, and of the discounted gain of these over that of min(k, held out) answers at the top (gain 1, discount
      1/log2(1 + list rank)). A query whose held-out answers are all removed does not count; 0 if there is no other.
    - `auc`: mean over edges and sides of the share of negatives that the answer outscores, a tie counting half; 0.5
      where there are none.

    Args:
        sums: by relation.
    """
    total = Sums(*({name: values.sum(keepdims=True) for name, values in of.items()} for of in (sums.of, sums.over)))
    figures: Figures = {}
    labels = [(ALL, total, 0), *((relations[rel], sums, rel) for rel in np.flatnonzero(sums.of["edges_rhs"]).tolist())]
    for name, of, label in labels:
        edges = {EDGES: int(of.of["edges_rhs"][label])}
        figures[name] = of.figures(label, names(evaluation), evaluation) | edges
    return figures


def _terms(ranking: Ranking, evaluation: Evaluation) -> Iterator[tuple[str, Floats, Floats]]:
    """(name, of, over), each [queries]: what each query adds to a figure."""
    nothing = {side: np.zeros(ranking.held[side].queries) for side in SIDES}

    def alone(side: Side, values: Floats) -> Floats:
        return np.concatenate([values if other == side else nothing[other] for other in SIDES])

    edges = {side: _of_queries(ranking.held[side], np.ones(len(ranking.held[side]))) for side in SIDES}
    for side in SIDES:
        yield f"edges_{side}", alone(side, edges[side]), alone(side, np.ones_like(edges[side]))
    for name in ranking.values("rhs", evaluation.hits_at):
        of = {side: _of_queries(ranking.held[side], ranking.values(side, evaluation.hits_at)[name]) for side in SIDES}
        yield name, np.concatenate(list(of.values())), np.concatenate(list(edges.values()))
        for side in SIDES:
            yield f"{name}_{side}", alone(side, of[side]), alone(side, edges[side])
    for name, values, kept in _of_lists(ranking.held["rhs"], ranking.ranks["rhs"], evaluation.recall_at):
        yield name, alone("rhs", values), alone("rhs", kept)


def _of_queries(held: HeldOut, values: Floats) -> Floats:
    return weighted(held.query, values * held.edges, held.queries)


def _of_lists(held: HeldOut, ranks: AnswerRanks, recall_at: list[int]) -> Iterator[tuple[str, Floats, Floats]]:
    """recall@k and ndcg@k of each query, and whether it has any: not if its held-out answers are all removed."""
    kept = np.flatnonzero(~np.isnan(ranks.list_rank))
    query, rank = held.query[kept], ranks.list_rank[kept]
    relevant = np.bincount(query, minlength=held.queries)
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, 1 + max(recall_at))))
    for k in recall_at:
        among = rank <= k
        found = np.bincount(query, among, minlength=held.queries)
        gain = np.bincount(query, among / np.log2(1 + rank), minlength=held.queries)
        most = np.maximum(relevant, 1)
        yield f"recall@{k}", found / most, (relevant > 0).astype(np.float64)
        yield f"ndcg@{k}", gain / ideal[np.minimum(k, most) - 1], (relevant > 0).astype(np.float64)


def weighted(label: Ints, values: Floats, size: int) -> Floats:
    """The sum of the values of each label: [size]."""
    return np.bincount(label, values, minlength=size).astype(np.float64)
