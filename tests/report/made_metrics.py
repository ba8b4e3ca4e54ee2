"""Metrics as evaluate writes them, with figures that say what they are of."""

from __future__ import annotations

from typing import Any

from twhin_core.evaluation.metrics import Metrics

Figures = dict[str, dict[str, float]]
BUCKETS = ("0", "1-9", "10-99", "100+")


def made_metrics(relations: list[str], of: list[str], planted: bool = True, **more: Any) -> Metrics:
    """Of the test split; every figure of every relation and of each baseline is another number. `more` comes on top."""
    metrics: Metrics = {
        "test": _figures(relations, of, 0.3),
        "baselines": {"popularity": _figures(relations, of, 0.2), "random": _figures(relations, of, 0.1)},
        "headline": of[0],
        "checkpoint": 4321,
        "config": "0",
        "graph": {"tables": {"user": 40, "tweet": 30}, "edges": {"train": 480, "test": 60}},
        "version": "0",
    }
    if planted:
        metrics["planted"] = {relation: {"mrr": 0.9, "edges": 9} for relation in ["all", *relations]}
    return metrics | more


def with_everything(metrics: Metrics) -> Metrics:
    """The same with intervals, degrees and a previous run."""
    figures: Figures = metrics["test"]
    names = [name for name in figures["all"] if name != "edges"]
    relations = [relation for relation in figures if relation != "all"]

    def intervals(of: dict[str, float]) -> dict[str, list[float]]:
        return {name: [round(of[name] - 0.01, 4), round(of[name] + 0.02, 4)] for name in of if name != "edges"}

    def degrees(base: float) -> dict[str, Figures]:
        of_answer = [name for name in names if not name.startswith(("recall", "ndcg"))]
        return {
            whose: {
                bucket: {name: round(base + row / 10 + column / 1000, 4) for column, name in enumerate(kept)}
                | {"edges": 100 + row}
                for row, bucket in enumerate(BUCKETS)
            }
            for whose, kept in (("query", names), ("answer", of_answer))
        }

    return metrics | {
        "intervals": {relation: intervals(of) for relation, of in figures.items()},
        "degrees": {"model": degrees(0.25), "popularity": degrees(0.05), "previous": degrees(0.2)},
        "baselines": {**metrics["baselines"], "previous": _figures(relations, names, 0.28)},
    }


def made_probe(table: str, column: str, classes: list[str]) -> dict[str, Any]:
    """The part `probe`, with every figure another number."""
    inputs = ("majority", "degree", "vectors", "features", "features_and_vectors")
    figures = {
        name: {"auc": 0.5 + position / 10, "accuracy": 0.51 + position / 10} for position, name in enumerate(inputs)
    }
    gain = {"auc": [0.125, 0.0625, 0.1875], "accuracy": [-0.0312, -0.0512, 0.0112]}
    return {
        "config": "0",
        "table": table,
        "column": column,
        "classes": {name: 100 + position for position, name in enumerate(classes)},
        "counts": {"labels": 2000, "incomplete": 1234, "unmatched": 345, "repeated": 56, "unused": 7},
        "fitted": 1400,
        "held_out": 600,
        "figures": figures,
        "intervals": {
            name: {key: [value - 0.01, value + 0.02] for key, value in of.items()} for name, of in figures.items()
        },
        "differences": {"vectors": gain, "features_and_vectors": gain},
        "ridge": {},
    }


def _figures(relations: list[str], of: list[str], base: float) -> Figures:
    return {
        relation: {name: round(base + position / 100 + row / 10_000, 4) for row, name in enumerate(of)}
        | {"edges": 1000 - position}
        for position, relation in enumerate(["all", *relations])
    }
