"""The content of `evaluation/metrics.json`, and its names."""

from __future__ import annotations

from typing import Any

from twhin_core.config import Evaluation
from twhin_core.schema import SIDES

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
candidates, so that no such figure is taken for an exact one.
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
    whole = [f"{name}@{k}" for name in ("recall", "ndcg") for k in evaluation.recall_at]
    return [prefix(evaluation) + name for name in (*_each(evaluation), *whole, AUC)] + [EDGES]


def names_of_all(evaluation: Evaluation) -> list[str]:
    """The metrics of all relations together, of a model."""
    return [*names(evaluation), prefix(evaluation) + AUC_REFERENCE]


def names_of_answers(evaluation: Evaluation) -> list[str]:
    """The metrics of a degree bucket of the answer: those that are not of a query's answers together."""
    return [prefix(evaluation) + name for name in (*_each(evaluation), AUC)] + [EDGES]


def _each(evaluation: Evaluation) -> list[str]:
    both = [MRR, *(f"hits@{k}" for k in evaluation.hits_at)]
    return [*both, *(f"{name}_{side}" for side in SIDES for name in both)]
