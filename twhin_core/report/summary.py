"""The metrics as tables."""

from __future__ import annotations

from typing import Any

from twhin_core.evaluation.list_metrics import LISTS
from twhin_core.evaluation.metrics import ALL, EDGES, MODEL, Metrics, split_of
from twhin_core.evaluation.probe_figures import ACCURACY, AUC
from twhin_core.evaluation.probe_names import PROBE, Probed
from twhin_core.output import Cell, Column, Listing
from twhin_core.sizes import count_of

RELATIONS_SHOWN = 10

INTERVAL = "95 %"
"""The heading of the result's intervals."""


def list_metrics(metrics: Metrics) -> list[Listing]:
    """Each metric over all relations, and the headline of each relation, next to the baselines.

    The title says whether candidates were sampled, as do the names of the metrics.
    """
    split, result = split_of(metrics)
    columns, sampled = compared(metrics), _sampled(metrics)
    figures = [
        Column("result", ".4f"), Column(INTERVAL, ".4f", keys=("low", "high")),
        *(Column(name, ".4f", keys=(name.replace(" ", "_"),)) for name in columns if name != "result"),
    ]  # fmt: skip
    main = metrics["headline"]
    both = [name for name in result[ALL] if name != EDGES and not name.endswith(("_lhs", "_rhs"))]
    rows: list[list[Cell]] = [[metric, *_row(metrics, columns, ALL, metric)] for metric in dict.fromkeys([main, *both])]
    title = f"{split}, {count_of(int(result[ALL][EDGES]), 'edge')}{sampled}"
    listings = [Listing("metrics", title, [Column("metric"), *figures], rows)]
    if len(result) > 2:
        of_relations: list[list[Cell]] = [
            [name, int(result[name][EDGES]), *_row(metrics, columns, name, main)]
            for name in largest(result, len(result))
        ]
        headings = [Column("relation"), Column(EDGES, ",d"), *figures]
        title = f"{main} by relation{sampled}"
        listings.append(Listing("relations", title, headings, of_relations, RELATIONS_SHOWN))
    listings += [_list_lists(*of) for of in metrics.get(LISTS, {"relations": {}})["relations"].items()]
    return listings + ([_list_probe(metrics[PROBE])] if PROBE in metrics else [])


def _list_probe(of: Probed) -> Listing:
    """The figures of each input that a label is predicted from."""
    columns = [Column("predicted from", keys=("input",))]
    for key in (AUC, ACCURACY):
        columns += [Column(key, ".4f"), Column(INTERVAL, ".4f", keys=(f"{key}_low", f"{key}_high"))]
    rows: list[list[Cell]] = []
    for name, figures in of["figures"].items():
        cells = [(figures[key], tuple(of["intervals"][name][key])) for key in (AUC, ACCURACY)]
        rows.append([name, *cells[0], *cells[1]])
    title = f"{of['column']} of {of['held_out']:,} held-out {of['table']} nodes"
    return Listing(PROBE, title, columns, rows)


def _list_lists(relation: str, of: dict[str, Any]) -> Listing:
    """The figures of a relation's lists, a column for what made them."""
    sources = of["figures"]
    columns = [
        Column("metric"), Column("result", ".4f"), Column(INTERVAL, ".4f", keys=("low", "high")),
        *(Column(name, ".4f", keys=(name.replace(" ", "_"),)) for name in sources if name != MODEL),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for metric in dict.fromkeys(metric for figures in sources.values() for metric in figures):
        interval = of["intervals"][MODEL].get(metric)
        values = [figures.get(metric) for figures in sources.values()]
        rows.append([metric, values[0], None if interval is None else tuple(interval), *values[1:]])
    title = f"lists of {relation} for {of['users']:,} users among {of['candidates']:,} candidates"
    return Listing(f"lists.{relation}", title, columns, rows)


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


def _row(metrics: Metrics, columns: dict[str, Any], relation: str, metric: str) -> list[Cell]:
    """The values of one metric: the result and its interval, then the other columns."""
    result, *others = [of.get(relation, {}).get(metric) for of in columns.values()]
    interval = metrics.get("intervals", {}).get(relation, {}).get(metric)
    return [result, None if interval is None else tuple(interval), *others]
