"""Lists of candidates: their figures beside the baselines', by degree of the user and of the candidate, and a funnel by
source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twhin_core.evaluation.list_metrics import DECILES, LISTS, WITHOUT_PRIOR
from twhin_core.evaluation.metrics import MODEL, POPULARITY, Metrics
from twhin_core.report.charts import BarChart, bar_chart
from twhin_core.report.figures import Table

SHOWN = 5
"""Relations."""

SERIES = {
    MODEL: ("result", "this run"),
    WITHOUT_PRIOR: ("without-prior", WITHOUT_PRIOR),
    **{name: (name, name) for name in (POPULARITY, "item-item")},
}
"""Class and name of the bars; chance is next to nothing."""


@dataclass(frozen=True)
class OfRelation:
    """The lists of one relation."""

    name: str
    users: str
    candidates: str
    figures: Table
    by_degree: BarChart
    by_decile: BarChart | None
    """None without answers, or if an earlier release has measured the lists."""
    recall: str
    """The figure that the charts by degree show."""
    series: list[tuple[str, str]]
    has_prior: bool
    """Whether there are lists without it."""
    funnel: BarChart
    sources: Table


def collect(metrics: Metrics) -> list[OfRelation]:
    """Empty without `evaluation.lists`."""
    relations: dict[str, Any] = metrics.get(LISTS, {"relations": {}})["relations"]
    return [_of_relation(name, of) for name, of in list(relations.items())[:SHOWN]]


def _of_relation(name: str, of: dict[str, Any]) -> OfRelation:
    recall = f"recall@{of['at'][len(of['at']) // 2]}"
    shown = {source: SERIES[source] for source in of["figures"] if source in SERIES}
    buckets: dict[str, Any] = of["degrees"][MODEL]
    return OfRelation(
        name=name,
        users=_users(of["users"]),
        candidates=f"{of['candidates']:,}",
        figures=_figures(of),
        by_degree=bar_chart(
            names=list(buckets),
            notes=[_users(figures["users"]) for figures in buckets.values()],
            series={
                label: [of["degrees"][source].get(bucket, {}).get(recall) for bucket in buckets]
                for source, (label, _) in shown.items()
            },
        ),
        by_decile=_by_decile(of, recall, shown),
        recall=recall,
        series=list(shown.values()),
        has_prior=WITHOUT_PRIOR in shown,
        funnel=_funnel(of),
        sources=_sources(of),
    )


def _by_decile(of: dict[str, Any], recall: str, shown: dict[str, tuple[str, str]]) -> BarChart | None:
    """The recall of the answers of each group, by the range of their training edges."""
    deciles: dict[str, Any] = of.get(DECILES, {})
    groups = deciles.get(MODEL)
    if not groups:
        return None
    return bar_chart(
        names=[_range(group["from"], group["to"]) for group in groups],
        notes=[f"{group['answers']:,}\u00a0answers" for group in groups],
        series={label: [group[recall] for group in deciles[source]] for source, (label, _) in shown.items()},
    )


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _figures(of: dict[str, Any]) -> Table:
    figures, intervals = of["figures"], of["intervals"][MODEL]
    rows = []
    for metric in dict.fromkeys(metric for each in figures.values() for metric in each):
        low, high = intervals.get(metric, (None, None))
        interval = "–" if low is None else f"{low:.4f} – {high:.4f}"
        decimals = 1 if metric.startswith("popularity") else 4
        first, *others = (_text(each.get(metric), decimals) for each in figures.values())
        rows.append([metric, first, interval, *others])
    return Table(["metric", "this run", "95\u00a0% interval", *list(figures)[1:]], rows)


def _funnel(of: dict[str, Any]) -> BarChart:
    """The share of the held-out answers that are left at each step, from all to those in the first of a list."""
    answers = max(of["answers"], 1)
    hits = {k: sum(source[f"hits@{k}"] for source in of["sources"][MODEL].values()) for k in reversed(of["at"])}
    steps = {"held out": of["answers"], "a candidate": of["reachable"]}
    steps |= {f"in the first {k:,}": count for k, count in hits.items()}
    return bar_chart(
        names=list(steps),
        notes=[f"{count:,}" for count in steps.values()],
        series={"result": [count / answers for count in steps.values()]},
    )


def _sources(of: dict[str, Any]) -> Table:
    """What each source found of the first of each list, and how much of it was right."""
    k, rows = of["at"][-1], []
    for name, sources in of["sources"].items():
        for source, counts in sources.items():
            listed, hits = counts[f"listed@{k}"], counts[f"hits@{k}"]
            rows.append([
                {MODEL: source, WITHOUT_PRIOR: f"{source}, {WITHOUT_PRIOR}"}.get(name, f"{name} (baseline)"),
                f"{listed:,}",
                f"{hits:,}",
                _text(hits / listed if listed else None),
                _text(hits / of["answers"] if of["answers"] else None),
            ])  # fmt: skip
    headings = [f"candidates in the first {k:,}", "hits", "hits per candidate", "share of all held out"]
    return Table(["source", *headings], rows)


def _users(count: int) -> str:
    return f"{count:,} {'user' if count == 1 else 'users'}"


def _text(value: float | None, decimals: int = 4) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"
