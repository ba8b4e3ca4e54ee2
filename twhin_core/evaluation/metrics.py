"""The metrics of a ranking, by relation or degree bucket, and the content of `evaluation/metrics.json`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twhin_core.config import Evaluation
from twhin_core.ranking.queries import Floats, HeldOut, Ints, Split
from twhin_core.ranking.ranks import AnswerRanks
from twhin_core.schema import SIDES, Side

if TYPE_CHECKING:
    from twhin_core.evaluation.task import RankingResult

Figures = dict[str, dict[str, float]]
"""Figures by relation (or `all`) and name."""

Differences = dict[str, dict[str, list[float]]]
"""[difference, low, high] by relation (or `all`) and name."""

Metrics = dict[str, Any]
"""`evaluation/metrics.json`, in this shape:

    {"test": {"all": {"mrr": …, "hits@10": …, "recall@20": …, "edges": …}, "<relation>": {…}},
     "intervals": {"all": {"mrr": [low, high], …}, "<relation>": {…}},    95 %, over queries, of the model's figures
     "degrees": {"model": {"query": {"0": {…}, "1-9": {…}}, "answer": {…}}, "popularity": {…}},
     "baselines": {"popularity": {"all": {…}, "<relation>": {…}}, "random": {…}, "previous": {…}},
     "drift": {"tables": {…}, "relations": {…}},    from evaluation.previous: see `drift.py`
     "differences": {"all": {"mrr": [difference, low, high], …}, "<relation>": {…}},
                                            this run - the previous one, with its 95 % interval, if there is one;
                                            like its figures, of the relations that both have
     "headline": "mrr_rhs",                 the figure that `evaluation.headline` names
     "lists": {"config": …, "relations": {…}},    of candidates, with evaluation.lists: see `list_metrics.py`
     "probe": {"config": …, "figures": {…}, …},    of a label, with evaluation.probe: see `probe_names.py`
     "candidates": {"count": 1000, "power": 0.0},    null if ranks are among all nodes
     "planted": {"all": {…}, …},            for a generated network: the best figures that any model can reach
     "checkpoint": 1000,                    the step evaluated
     "config": "<digest>",                  of the sections that say how to evaluate
     "graph": {"tables": {"<table>": rows}, "edges": {"<split>": edges}},
     "version": "…"}

The first key is the name of the evaluated split. If ranks are among sampled candidates, names of figures have the
prefix `sampled_`, so that none is mistaken for an exact one.
"""

ALL = "all"
MRR, AMRI, AUC, EDGES = "mrr", "amri", "auc", "edges"
AUC_REFERENCE = "auc_reference"
"""Only of `all`, and only of models: see `reference_auc.py`."""
GAUC = "gauc"
"""Only of models, and of relations with explicit negatives: see `group_auc.py`."""
SAMPLED = "sampled_"
MODEL, POPULARITY, RANDOM, PREVIOUS = "model", "popularity", "random", "previous"
DRIFT = "drift"
"""What `evaluation.drift` measures, if there is an earlier version."""
DIFFERENCES = "differences"
"""Of this run's figures and those of an earlier one."""
PLANTED = "planted"
"""The ranking of a generated network by what was planted in it, which no model can beat."""
QUERY, ANSWER = "query", "answer"
"""Whose degree: that of the query's node, or of the answer."""


def prefix(evaluation: Evaluation) -> str:
    """The prefix of the names of figures."""
    return "" if evaluation.candidates is None else SAMPLED


def names(evaluation: Evaluation, lists: bool = True) -> list[str]:
    """The metrics of a relation, in order. `lists`: including recall and ndcg, which single answers do not have."""
    both = [MRR, *(f"hits@{k}" for k in evaluation.hits_at), AMRI]
    of_sides = [f"{name}_{side}" for side in SIDES for name in both]
    of_lists = [f"{name}@{k}" for name in ("recall", "ndcg") for k in evaluation.recall_at if lists]
    lists_of_sides = [f"{name}_{side}" for side in SIDES for name in of_lists]
    return [prefix(evaluation) + name for name in (*both, *of_sides, *of_lists, *lists_of_sides, AUC)] + [EDGES]


def headline_name(evaluation: Evaluation) -> str:
    """The name of the main figure."""
    return prefix(evaluation) + evaluation.headline


def split_of(metrics: Metrics) -> tuple[Split, Figures]:
    """The name of the evaluated split, and its figures."""
    split: Split = "test" if "test" in metrics else "validation"
    return split, metrics[split]


def buckets(evaluation: Evaluation) -> list[str]:
    """Names of the degree buckets, cold to hot: for [1, 10, 100] they are 0, 1-9, 10-99 and 100+."""
    bounds = [0, *evaluation.degree_buckets]
    ranges = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in itertools.pairwise(bounds)]
    return [*ranges, f"{bounds[-1]}+"]


def bucket_of(degree: Ints, evaluation: Evaluation) -> Ints:
    """The number of each degree's bucket."""
    return np.searchsorted(evaluation.degree_buckets, degree, side="right")


@dataclass(frozen=True)
class Ranking:
    """All held-out edges as one model or baseline ranks them."""

    held: Mapping[Side, HeldOut]
    results: Mapping[Side, RankingResult]
    ranks: Mapping[Side, AnswerRanks]

    def of_relations(self, rels: Ints) -> Ranking:
        """The edges of these relations alone."""
        held, results, ranks = dict(self.held), dict(self.results), dict(self.ranks)
        for side in SIDES:
            kept = np.flatnonzero(np.isin(self.held[side].rel, rels))
            held[side] = self.held[side].take(kept)
            results[side] = self.results[side].take(kept)
            ranks[side] = self.ranks[side].take(kept)
        return Ranking(held, results, ranks)

    def values(self, side: Side, hits_at: list[int]) -> dict[str, Floats]:
        """[H] the reciprocal rank, the hits and the AUC of each held-out edge."""
        rank, negatives = self.ranks[side].rank, self.results[side].negatives
        hits = {f"hits@{k}": (rank <= k).astype(np.float64) for k in hits_at}
        auc = np.where(negatives > 0, 1 - (rank - 1) / np.maximum(negatives, 1), 0.5)
        return {MRR: 1 / rank, **hits, AUC: auc}

    def gains(self, side: Side) -> tuple[Floats, Floats]:
        """([H] how far the rank of each held-out edge is below its expectation, [H] how far it could be), by chance."""
        most = self.results[side].negatives / 2  # a rank by chance is uniform on 1 … negatives + 1
        return most - (self.ranks[side].rank - 1), most


@dataclass(frozen=True)
class Sums:
    """The numerators and denominators of figures: `of[name] / over[name]`, both [n], for each of n labels."""

    of: dict[str, Floats]
    over: dict[str, Floats]

    def add(self, name: str, of: Floats, over: Floats) -> None:
        self.of[name] = self.of.get(name, 0.0) + of
        self.over[name] = self.over.get(name, 0.0) + over

    def figures(self, label: int, names: list[str]) -> dict[str, float]:
        """The named figures of a label, 0 if there is nothing to average. `edges` counts an edge once per side."""
        figures: dict[str, float] = {}
        for name in names:
            key = name.removeprefix(SAMPLED)
            of, over = float(self.of[key][label]), float(self.over[key][label])
            figures[name] = int(of) if key == EDGES else of / max(over, 1e-300)
        return figures


def sum_up(ranking: Ranking, evaluation: Evaluation, label: Mapping[Side, Ints]) -> Sums:
    """The sums by a label of held-out edges.

    Args:
        label: [H] per side, each from 0 on. The recall and ndcg of a query count for the label of its first edge.
    """
    size = 1 + max(int(label[side].max(initial=-1)) for side in SIDES)
    sums = Sums({}, {})
    for side in SIDES:
        edges = ranking.held[side].edges.astype(np.float64)
        over = _sum(label[side], edges, size)
        for key in (EDGES, f"{EDGES}_{side}"):
            sums.add(key, over, over)
        for name, values in ranking.values(side, evaluation.hits_at).items():
            of = _sum(label[side], values * edges, size)
            for key in (name, f"{name}_{side}"):
                sums.add(key, of, over)
        gained, most = (_sum(label[side], values * edges, size) for values in ranking.gains(side))
        for key in (AMRI, f"{AMRI}_{side}"):
            sums.add(key, gained, most)
        held = ranking.held[side]
        of_queries = label[side][held.first]
        for name, values, has_list in _of_lists(held, ranking.ranks[side], evaluation.recall_at):
            of, over = _sum(of_queries, values, size), _sum(of_queries, has_list, size)
            for key in (name, f"{name}_{side}") if side == "rhs" else (f"{name}_{side}",):
                sums.add(key, of, over)
    return sums


def of_relations(sums: Sums, relations: list[str], evaluation: Evaluation) -> Figures:
    """The metrics of `all` edges and of each relation that has some, by name.

    - `mrr`, `hits@k`: mean over edges of 1/rank and of rank ≤ k, filtered, over both sides; `_lhs` and `_rhs` of the
      queries for that side alone.
    - `amri`: the adjusted mean rank index (Berrendorf et al., 2020), 1 - (mean rank - 1) / (expected mean rank - 1),
      of the same ranks; 1 if all are 1, 0 as expected by chance. The expectation is of the candidates that each query
      has after filtering. 0 if there are no negatives.
    - `recall@k`: mean over queries (lhs, rel, ?) of the share of their held-out answers with a list rank of at most k.
      It is the same as `recall@k_rhs`; `recall@k_lhs` is that of the queries (?, rel, rhs). So is ndcg.
    - `ndcg@k`: mean over the same queries of the discounted gain of these answers, divided by that of
      min(k, held out) answers at the top; gain 1, discount 1/log2(1 + list rank) (Järvelin and Kekäläinen, 2002).
      A query whose held-out answers are all removed does not count for recall and ndcg; 0 if there is no other.
    - `auc`: mean over edges and sides of the share of negatives that the answer outscores, a tie counting half; 0.5
      if there are none.

    Args:
        sums: by relation.
    """
    total = Sums(*({name: values.sum(keepdims=True) for name, values in of.items()} for of in (sums.of, sums.over)))
    figures: Figures = {}
    labels = [(ALL, total, 0), *((relations[rel], sums, rel) for rel in np.flatnonzero(sums.of["edges_rhs"]).tolist())]
    for name, of, label in labels:
        figures[name] = of.figures(label, names(evaluation)) | {EDGES: int(of.of["edges_rhs"][label])}
    return figures


def of_buckets(sums: Sums, names: list[str], evaluation: Evaluation) -> Figures:
    """The named metrics of each degree bucket that has edges, leaving out those with nothing to average.

    Args:
        sums: by bucket.
    """
    return {
        bucket: sums.figures(number, [name for name in names if sums.over[name.removeprefix(SAMPLED)][number]])
        for number, bucket in enumerate(buckets(evaluation)[: len(sums.of[EDGES])])
        if sums.of[EDGES][number]
    }


def _of_lists(held: HeldOut, ranks: AnswerRanks, recall_at: list[int]) -> Iterator[tuple[str, Floats, Floats]]:
    """(name, [Q] recall@k or ndcg@k, [Q] 1 if the query has an answer that is not removed, else 0)."""
    kept = np.flatnonzero(~np.isnan(ranks.list_rank))
    query, rank = held.query[kept], ranks.list_rank[kept]
    relevant = np.bincount(query, minlength=held.queries)
    has_list, most = (relevant > 0).astype(np.float64), np.maximum(relevant, 1)
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, 1 + max(recall_at))))
    for k in recall_at:
        among = rank <= k
        found = np.bincount(query, among, minlength=held.queries)
        gain = np.bincount(query, among / np.log2(1 + rank), minlength=held.queries)
        yield f"recall@{k}", found / most, has_list
        yield f"ndcg@{k}", gain / ideal[np.minimum(k, most) - 1], has_list


def _sum(label: Ints, values: Floats, size: int) -> Floats:
    """The sum of the values of each label: [size]."""
    return np.bincount(label, values, minlength=size).astype(np.float64)
