"""The metrics with their baselines and intervals, overall, by relation and by degree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twhin_core.config import Evaluation
from twhin_core.evaluation.metrics import (
    ALL,
    AUC,
    DIFFERENCES,
    EDGES,
    GAUC,
    MODEL,
    MRR,
    POPULARITY,
    PREVIOUS,
    SAMPLED,
    Metrics,
    split_of,
)
from twhin_core.report import notes
from twhin_core.report.charts import BarChart, bar_chart
from twhin_core.report.summary import compared, largest
from twhin_core.sizes import count_of

RELATIONS_SHOWN = 20

SIDED = ("_lhs", "_rhs")
"""Suffixes of metrics that cover the queries for one side only."""

HEADINGS = {"result": "this run", PREVIOUS: notes.PREVIOUS}

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Tile:
    """A metric over all relations, formatted, with its baselines."""

    name: str
    value: str
    interval: str
    compared: list[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Formatted cells, row by row. The first column is a name."""

    headings: list[str]
    rows: list[list[str]]


def collect(metrics: Metrics, evaluation: Evaluation) -> dict[str, Any]:
    """The content of the sections on `metrics`, by the names that the template uses."""
    split, result = split_of(metrics)
    prefix = SAMPLED if metrics.get("candidates") else ""
    names = [name for name in result[ALL] if name != EDGES]
    main, shown = metrics["headline"], largest(result, RELATIONS_SHOWN)
    side = next((suffix for suffix in SIDED if main.endswith(suffix)), "")
    chosen = [name for name in dict.fromkeys([main, *_chosen(evaluation, prefix, side)]) if name in names]
    listed = list(dict.fromkeys([main, *(name for name in names if not name.endswith(SIDED))]))
    found = f"{prefix}hits@{evaluation.hits_at[-1]}{side}"
    series = [("result", "this run"), (POPULARITY, "popularity")]
    previous = [(PREVIOUS, HEADINGS[PREVIOUS])] if PREVIOUS in metrics["baselines"] else []
    planted = [("planted", "planted optimum")] if main in metrics.get("planted", {}).get(ALL, {}) else []
    return {
        "split": split,
        "edges": int(result[ALL][EDGES]),
        "sampled": _candidates(metrics.get("candidates")),
        "tiles": [_tile(metrics, name) for name in chosen if name not in _not_on_tiles(main, prefix)],
        "overall": (overall := _overall(metrics, listed)),
        "by_side": _by_side(metrics, [name for name in names if name.endswith(SIDED)]),
        "has_intervals": bool(metrics.get("intervals")),
        "has_gauc": GAUC in names,
        "main": main,
        "side": side.removeprefix("_"),
        "notes": (noted := notes.collect(headed := [*overall.headings, *(name for _, name in previous), *names])),
        "marks": notes.marks(noted, headed),
        "column_marks": notes.marks(noted, overall.headings),
        "changes": _changes(metrics, main, listed),
        "relations": _relations(metrics, shown, main, [name for name, _ in [*series, *previous]]),
        "relation_series": [*series, *previous, *planted],
        "relation_table": _relation_table(result, shown, chosen),
        "relation_count": len(result) - 1,
        "planted": "planted optimum" in _columns(metrics),
        "degree_metric": found,
        "degrees": _degree_charts(metrics, found),
        "degree_series": [*series, *previous],
        "degree_table": _degree_table(metrics, [name for name in chosen if name != GAUC]),
    }


def _chosen(evaluation: Evaluation, prefix: str, side: str) -> list[str]:
    """The metrics shown as tiles and in the tables by relation and degree, for the side of the headline."""
    recall = f"recall@{evaluation.recall_at[len(evaluation.recall_at) // 2]}{side if side == '_lhs' else ''}"
    stems = [MRR, f"{MRR}_lhs", f"{MRR}_rhs", f"hits@{evaluation.hits_at[-1]}{side}", recall, AUC]
    return [*(prefix + stem for stem in stems), GAUC]


def _not_on_tiles(main: str, prefix: str) -> set[str]:
    return {prefix + stem for stem in (f"{MRR}_lhs", f"{MRR}_rhs", AUC)} - {main}


def _candidates(candidates: dict[str, Any] | None) -> str:
    """The sampled candidates in words; empty if ranks are exact."""
    if not candidates:
        return ""
    power = candidates.get("power")
    drawn = f"in proportion to their degree to the power {power:g}" if power else "uniformly"
    return f"{candidates['count']:,} nodes drawn {drawn}"


def _tile(metrics: Metrics, name: str) -> Tile:
    columns = {heading: of for heading, of in _columns(metrics).items() if heading not in ("result", "random")}
    return Tile(
        name=name,
        value=_text(split_of(metrics)[1][ALL][name]),
        interval=_interval_text(_interval(metrics, ALL, name)),
        compared=[
            (HEADINGS.get(heading, heading), _text(of[ALL][name]))
            for heading, of in columns.items()
            if name in of.get(ALL, {})
        ],
    )


def _overall(metrics: Metrics, names: list[str]) -> Table:
    columns = _columns(metrics)
    intervals = metrics.get("intervals") or {}
    rows = []
    for name in names:
        texts = [_text(of.get(ALL, {}).get(name)) for of in columns.values()]
        if intervals:
            texts.insert(1, _interval_text(_interval(metrics, ALL, name)) or "–")
        rows.append([name, *texts])
    headings = [HEADINGS.get(heading, heading) for heading in columns]
    if intervals:
        headings.insert(1, "95\u00a0% interval")
    return Table(["metric", *headings], rows)


def _changes(metrics: Metrics, main: str, names: Sequence[str]) -> dict[str, Any] | None:
    """How much higher this run's figures are than the previous one's, of the relations that both have."""
    before: dict[str, Any] = metrics["baselines"].get(PREVIOUS, {})
    changes = metrics.get(DIFFERENCES)
    if not changes:
        return None

    def row(title: str, relation: str, name: str) -> list[str]:
        value, (change, low, high) = before[relation][name], changes[relation][name]
        return [title, _text(value), _text(value + change), f"{change:+.4f}", f"{low:+.4f} – {high:+.4f}"]

    headings = [HEADINGS[PREVIOUS], HEADINGS["result"], "change", "95\u00a0% interval of the change"]
    relations = [of for of in largest(split_of(metrics)[1], RELATIONS_SHOWN) if of in changes]
    return {
        "count": len(before) - 1,
        "overall": Table(["metric", *headings], [row(name, ALL, name) for name in names if name in changes[ALL]]),
        "relations": Table(["relation", *headings], [row(of, of, main) for of in relations]),
    }


def _columns(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """The columns that share a metric with the result, and are of the same relations."""
    result = split_of(metrics)[1]
    names = set(result[ALL]) - {EDGES}
    columns = {heading: of for heading, of in compared(metrics).items() if names & set(of.get(ALL, {}))}
    if set(columns.get(PREVIOUS, result)) != set(result):
        del columns[PREVIOUS]
    return columns


def _by_side(metrics: Metrics, names: list[str]) -> Table:
    """Every one-sided metric next to that of popularity, rhs first."""
    columns = {heading: of for heading, of in compared(metrics).items() if heading in ("result", POPULARITY)}
    stems = list(dict.fromkeys(name.rpartition("_")[0] for name in names))
    rows = [
        [stem, *(_text(of.get(ALL, {}).get(f"{stem}_{side}")) for side in ("rhs", "lhs") for of in columns.values())]
        for stem in stems
    ]
    return Table(["metric", "for the rhs", POPULARITY, "for the lhs", POPULARITY], rows)


def _relations(metrics: Metrics, shown: list[str], main: str, series: Sequence[str]) -> BarChart:
    columns, planted = compared(metrics), metrics.get("planted", {})
    return bar_chart(
        names=shown,
        notes=[count_of(columns["result"][name][EDGES], "edge") for name in shown],
        series={label: [columns[label].get(name, {}).get(main) for name in shown] for label in series},
        intervals={"result": [_interval(metrics, name, main) for name in shown]},
        marks=[planted.get(name, {}).get(main) for name in shown],
    )


def _relation_table(result: dict[str, dict[str, float]], shown: list[str], chosen: list[str]) -> Table:
    rows = [
        [relation, f"{result[relation][EDGES]:,}", *(_text(result[relation].get(name)) for name in chosen)]
        for relation in shown
    ]
    return Table(["relation", EDGES, *chosen], rows)


def _degree_charts(metrics: Metrics, name: str) -> list[tuple[str, BarChart]]:
    """One chart by the degree of the query's node, one by that of the answer."""
    degrees = metrics.get("degrees") or {}
    series = {"result": MODEL, **{of: of for of in (POPULARITY, PREVIOUS) if of in degrees}}
    charts = []
    for whose in ("query", "answer"):
        every: dict[str, Any] = degrees.get(MODEL, {}).get(whose, {})
        buckets = {bucket: figures for bucket, figures in every.items() if name in figures}
        if not buckets:
            continue
        chart = bar_chart(
            names=list(buckets),
            # Queries are counted for both sides together.
            notes=["" if name.endswith(SIDED) else f"{figures[EDGES]:,} queries" for figures in buckets.values()],
            series={
                label: [degrees[of].get(whose, {}).get(bucket, {}).get(name) for bucket in buckets]
                for label, of in series.items()
            },
        )
        charts.append((f"Degree of the {whose}", chart))
    return charts


def _degree_table(metrics: Metrics, chosen: list[str]) -> Table | None:
    model: dict[str, Any] = (metrics.get("degrees") or {}).get(MODEL, {})
    rows = [
        [f"{whose} {bucket}", f"{figures[EDGES]:,}", *(_text(figures.get(name)) for name in chosen)]
        for whose in ("query", "answer")
        for bucket, figures in model.get(whose, {}).items()
    ]
    return Table(["degree of the", "queries of both sides", *chosen], rows) if rows else None


def _interval(metrics: Metrics, relation: str, name: str) -> Interval:
    found = (metrics.get("intervals") or {}).get(relation, {}).get(name)
    return None if found is None else (float(found[0]), float(found[1]))


def _interval_text(interval: Interval) -> str:
    return "" if interval is None else f"{interval[0]:.4f} – {interval[1]:.4f}"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
