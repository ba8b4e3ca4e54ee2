"""The metrics as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from twhin_core.evaluation.metrics import ALL, EDGES, MRR, SAMPLED, Metrics, split_of

RELATIONS_SHOWN = 10

INTERVAL = "95 %"
"""The heading of the result's intervals."""


def print_summary(metrics: Metrics, console: Console) -> None:
    """Prints each metric over all relations, and the MRR of each relation, next to the baselines.

    The title says whether candidates were sampled, as do the names of the metrics.
    """
    split, result = split_of(metrics)
    columns, sampled = compared(metrics), _sampled(metrics)
    headings = ["result", INTERVAL, *(name for name in columns if name != "result")]
    overall = _table(f"{split}, {result[ALL][EDGES]:,} edges{sampled}", "metric", headings)
    for metric in result[ALL]:
        if metric != EDGES and not metric.endswith(("_lhs", "_rhs")):
            overall.add_row(metric, *_row(metrics, columns, ALL, metric))
    console.print(overall)
    relations, mrr = largest(result, RELATIONS_SHOWN), (SAMPLED if metrics.get("candidates") else "") + MRR
    if len(result) > 2:
        count = len(result) - 1
        shown = "" if len(relations) == count else f", the {len(relations)} largest of {count}"
        by_relation = _table(f"{mrr} by relation{shown}{sampled}", "relation", [EDGES, *headings])
        for relation in relations:
            edges = f"{result[relation][EDGES]:,}"
            by_relation.add_row(Text(relation), edges, *_row(metrics, columns, relation, mrr))
        console.print(by_relation)


def compared(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """The columns by heading: the result, the baselines and, if known, the planted optimum."""
    columns = {"result": split_of(metrics)[1], **metrics["baselines"]}
    if "planted" in metrics:
        columns["planted optimum"] = metrics["planted"]
    return columns


def largest(result: dict[str, dict[str, float]], count: int) -> list[str]:
    """The relations with the most edges, largest first."""
    return sorted((name for name in result if name != ALL), key=lambda name: -result[name][EDGES])[:count]


def _sampled(metrics: Metrics) -> str:
    """A note if ranks are not exact."""
    candidates = metrics.get("candidates")
    return "" if not candidates else f", SAMPLED: ranks among {candidates['count']:,} sampled candidates, not among all"


def _table(title: str, first: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Fold on a narrow terminal: a truncated name or number would be misread.
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def _row(metrics: Metrics, columns: dict[str, Any], relation: str, metric: str) -> list[str]:
    """The values of one metric: the result and its interval, then the other columns."""
    figures = [_figure(of, relation, metric) for of in columns.values()]
    interval = metrics.get("intervals", {}).get(relation, {}).get(metric)
    return [figures[0], "–" if interval is None else f"{interval[0]:.4f}–{interval[1]:.4f}", *figures[1:]]


def _figure(figures: dict[str, Any], relation: str, metric: str) -> str:
    value = figures.get(relation, {}).get(metric)
    return "–" if value is None else f"{value:.4f}"
