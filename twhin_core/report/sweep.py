"""The page that shows what a sweep tried and found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twhin_core import storage
from twhin_core.durations import in_words
from twhin_core.report import charts
from twhin_core.report.axes import Tick, compact, round_steps
from twhin_core.report.charts import BOTTOM, LEFT, RIGHT, TOP, Curve, LineChart, bar_chart, dots, line_chart
from twhin_core.report.training import Panel
from twhin_core.report.write import templates

BEST, OWN, OTHERS = "first", "second", "others"
"""The CSS classes of the best trial, of the config's own settings and of the others."""


@dataclass(frozen=True)
class Tried:
    """A trial."""

    number: int
    """From 1; the first has the config's own settings, as far as they are in the space."""
    state: str
    """`complete`, `stopped`, `failed` or `running`."""
    value: float | None
    """The metric at the last look."""
    curve: list[tuple[float, float]]
    """(share of training, metric) at each look."""
    seconds: float
    values: dict[str, Any]
    """By key: a number, or the label of a choice."""
    reason: str
    """Why it ended early."""

    @property
    def share(self) -> float:
        return self.curve[-1][0] if self.curve else 0.0


@dataclass(frozen=True)
class Ranged:
    """A key of the space that has several values."""

    key: str
    name: str
    """A short one."""
    choices: list[str]
    """None for a number."""
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False


@dataclass(frozen=True)
class Table:
    headings: list[str]
    rows: list[list[str]]


def write_sweep_report(
    url: str,
    root: str,
    metric: str,
    best: Tried,
    trials: Sequence[Tried],
    space: Sequence[Ranged],
    importances: dict[str, float],
    config: str,
) -> None:
    """Writes the page to `url`. `config` is the text of the best trial's; `trials` are in the order of the table."""
    names = {of.key: of.name for of in space}
    complete = [trial for trial in trials if trial.state == "complete"]
    own = next((trial for trial in complete if trial.number == 1), None)
    counts = {
        state: sum(trial.state == state for trial in trials) for state in ("complete", "stopped", "failed", "running")
    }
    page = (
        templates()
        .get_template("sweep.html")
        .render(
            root=root,
            name=root.rstrip("/").rsplit("/", 1)[-1],
            metric=metric,
            best=best,
            own=own,
            counts={state: count for state, count in counts.items() if count},
            seconds=in_words(sum(trial.seconds for trial in trials)),
            chosen=Table(["key", "value"], [[of.key, shown(best.values.get(of.key))] for of in space]),
            importances=_bars(importances, names),
            panels=[panel for panel in (_curves(metric, best, trials), _progress(metric, trials)) if panel],
            scatters=[_scatter(of, best, complete) for of in space if len(complete) > 1],
            table=_table(metric, trials, space),
            failures=[(trial.number, trial.reason) for trial in trials if trial.state == "failed"],
            config=config,
            charts=charts,
        )
    )
    storage.write_text(url, page)


def shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bars(importances: dict[str, float], names: dict[str, str]) -> charts.BarChart | None:
    if not importances:
        return None
    ordered = sorted(importances.items(), key=lambda of: -of[1])
    return bar_chart(
        [names[key] for key, _ in ordered], ["" for _ in ordered], {"result": [share for _, share in ordered]}
    )


def _curves(metric: str, best: Tried, trials: Sequence[Tried]) -> Panel | None:
    """The metric over each trial's training; the best one is drawn last, over the others."""
    classes = {trial.number: OTHERS for trial in trials} | {1: OWN} | {best.number: BEST}
    ordered = sorted(trials, key=lambda trial: (OTHERS, OWN, BEST).index(classes[trial.number]))
    chart = line_chart({f"{classes[trial.number]} t{trial.number}": trial.curve for trial in ordered})
    if chart is None:
        return None
    legend = [(BEST, f"trial {best.number}, the best", shown(best.value))]
    if best.number != 1:
        legend.append((OWN, "trial 1, as the config says", shown(next(of.value for of in trials if of.number == 1))))
    legend += [(OTHERS, "other trials", "")] if len(trials) > len(legend) else []
    return Panel(f"{metric} by share of training", chart, legend)


def _progress(metric: str, trials: Sequence[Tried]) -> Panel | None:
    """The best value so far, by trial. `trials` start with the best."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    ranks = sorted((trial.number, rank) for rank, trial in enumerate(complete))
    best = itertools.accumulate((rank for _, rank in ranks), min)
    so_far = [(float(number), complete[rank].value or 0.0) for (number, _), rank in zip(ranks, best, strict=True)]
    chart = line_chart({BEST: so_far})
    if chart is None or len(so_far) < 2:
        return None
    return Panel("Best so far by trial", chart, [(BEST, metric, shown(so_far[-1][1]))])


def _scatter(of: Ranged, best: Tried, complete: Sequence[Tried]) -> Panel:
    """The metric of complete trials by the value of one key."""
    found = [(trial, trial.values[of.key]) for trial in complete if of.key in trial.values]
    ys = [trial.value or 0.0 for trial, _ in found]
    up = round_steps(min(ys, default=0.0), max(ys, default=1.0), most=6)
    at, across = _axis(of)
    height = (BOTTOM - TOP) / (up[-1] - up[0])
    places = {trial.number: (at(value), BOTTOM - height * ((trial.value or 0.0) - up[0])) for trial, value in found}
    rest = [place for number, place in places.items() if number != best.number]
    chart = LineChart(
        [Curve(OTHERS, "", dots(rest), 0.0)]
        + [Curve(BEST, "", dots([place]), 0.0) for number, place in places.items() if number == best.number],
        across,
        [Tick(BOTTOM - height * (y - up[0]), compact(y)) for y in up],
    )
    return Panel(of.name, chart, [], "" if found else "No complete trial has it.")


def _axis(of: Ranged) -> tuple[Callable[[Any], float], list[Tick]]:
    """Where a value is across the chart, which spans the key's range, and the ticks."""
    if of.choices:
        gap = (RIGHT - LEFT) / len(of.choices)
        places = {choice: LEFT + gap * (position + 0.5) for position, choice in enumerate(of.choices)}
        return places.__getitem__, [Tick(place, choice[:16]) for choice, place in places.items()]

    def at(value: float) -> float:
        scale: Callable[[float], float] = math.log if of.is_log else float
        return LEFT + (RIGHT - LEFT) * (scale(value) - scale(of.low)) / (scale(of.high) - scale(of.low))

    parts = [part / 4 for part in range(5)]
    marks = [of.low * (of.high / of.low) ** part if of.is_log else of.low + (of.high - of.low) * part for part in parts]
    return at, [Tick(at(mark), f"{mark:.3g}") for mark in marks]


def _table(metric: str, trials: Sequence[Tried], space: Sequence[Ranged]) -> Table:
    rows = [
        [
            str(trial.number), "–" if trial.value is None else f"{trial.value:.4f}", trial.state,
            f"{trial.share:.0%}", in_words(trial.seconds), *(shown(trial.values.get(of.key)) for of in space),
        ]
        for trial in trials
    ]  # fmt: skip
    return Table(["trial", metric, "state", "trained", "time", *(of.name for of in space)], rows)
