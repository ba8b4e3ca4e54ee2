"""The result as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from twhin_core.evaluation.metrics import ALL, EDGES, MRR, Metrics

RELATIONS_SHOWN = 10


def print_summary(metrics: Metrics, console: Console) -> None:
    """Prints each metric over all relations, and each relation's MRR, beside the baselines and the planted optimum."""
    split, result = split_of(metrics)
    columns = compared(metrics)
    overall = _table(f"{split}, {result[ALL][EDGES]:,} edges", "metric", columns)
    for metric in result[ALL]:
        if metric != EDGES and not metric.endswith(("_lhs", "_rhs")):
            overall.add_row(metric, *(_figure(of, ALL, metric) for of in columns.values()))
    console.print(overall)
    relations = largest(result, RELATIONS_SHOWN)
    if len(result) > 2:
        count = len(result) - 1
        title = f"{MRR} a relation" if len(relations) == count else f"{MRR} of the {len(relations)} largest of {count}"
        by_relation = _table(title, "relation", columns, EDGES)
        for relation in relations:
            edges = f"{result[relation][EDGES]:,}"
            by_relation.add_row(Text(relation), edges, *(_figure(of, relation, MRR) for of in columns.values()))
        console.print(by_relation)


def split_of(metrics: Metrics) -> tuple[str, dict[str, dict[str, float]]]:
    """The name of the split evaluated, and its metrics a relation."""
    split = "test" if "test" in metrics else "validation"
    return split, metrics[split]


def compared(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """What stands side by side, by heading: the result, the baselines and, where it is known, the planted optimum."""
    columns = {"result": split_of(metrics)[1], **metrics["baselines"]}
    if "planted" in metrics:
        columns["planted optimum"] = metrics["planted"]
    return columns


def largest(result: dict[str, dict[str, float]], count: int) -> list[str]:
    """The relations with the most edges, largest first."""
    return sorted((name for name in result if name != ALL), key=lambda name: -result[name][EDGES])[:count]


def _table(title: str, first: str, columns: dict[str, Any], *more: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in (*more, *columns):
        table.add_column(heading, justify="right")
    return table


def _figure(figures: dict[str, Any], relation: str, metric: str) -> str:
    value = figures.get(relation, {}).get(metric)
    return "–" if value is None else f"{value:.4f}"
