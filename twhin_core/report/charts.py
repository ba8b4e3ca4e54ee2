"""The layout of the charts. `templates/charts.html` draws them as SVG.

A bar chart has an HTML row per name, so that long names wrap; its lengths are percentages. Other charts are `WIDTH`
units wide, about one unit per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twhin_core.report.axes import Tick, compact, round_steps

WIDTH, HEIGHT = 400.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, WIDTH - 14.0, 10.0, HEIGHT - 24.0
"""The plot area of a line chart."""

POINTS_SHOWN = 300
DOTS_SHOWN = 40
"""Curves with more points have no dots."""

BINS, MOST_BINS = 30, 90


@dataclass(frozen=True)
class Bar:
    """A bar. `length` and `whisker` are percentages of the chart's width."""

    series: str
    length: float
    figure: str
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class BarRow:
    """The bars of one name in the order of the legend, without missing values."""

    name: str
    note: str
    bars: list[Bar]
    mark: float | None
    """The position of a reference value, as a percentage."""


@dataclass(frozen=True)
class BarChart:
    rows: list[BarRow]
    ticks: list[Tick]


@dataclass(frozen=True)
class Curve:
    """One line of a chart: `points` of an SVG polyline, and `dots` as an SVG path of zero-length lines."""

    series: str
    points: str
    dots: str
    last: float


@dataclass(frozen=True)
class LineChart:
    curves: list[Curve]
    across: list[Tick]
    up: list[Tick]


@dataclass(frozen=True)
class Histogram:
    """`columns` are (x, y, width, height)."""

    columns: list[tuple[float, float, float, float]]
    across: list[Tick]


def bar_chart(
    names: Sequence[str],
    notes: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    intervals: Mapping[str, Sequence[tuple[float, float] | None]] | None = None,
    marks: Sequence[float | None] = (),
) -> BarChart:
    """Horizontal bars from 0: a row per name, a bar per series, and a whisker for each interval."""
    intervals = intervals or {}
    marks = marks or [None] * len(names)
    values = [value for of in series.values() for value in of if value is not None]
    ends = [interval[1] for of in intervals.values() for interval in of if interval is not None]
    grid = round_steps(0, max([*values, *ends, *(mark for mark in marks if mark is not None), 1e-9]), most=6)
    scale = 100 / grid[-1]

    def bars(position: int) -> list[Bar]:
        found = []
        for label, of in series.items():
            value, interval = of[position], intervals.get(label, [None] * len(names))[position]
            if value is not None:
                whisker = None if interval is None else (interval[0] * scale, interval[1] * scale)
                found.append(Bar(label, value * scale, f"{value:.3f}", whisker))
        return found

    rows = [
        BarRow(name, notes[position], bars(position), None if mark is None else mark * scale)
        for position, (name, mark) in enumerate(zip(names, marks, strict=True))
    ]
    return BarChart(rows, [Tick(value * scale, f"{value:g}") for value in grid])


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], from_zero: bool = False) -> LineChart | None:
    """Lines through (x, y) points, with x from 0, averaged to at most `POINTS_SHOWN` points; None without points."""
    thinned = {name: _thin(points) for name, points in series.items() if points}
    if not thinned:
        return None
    last = max(x for points in thinned.values() for x, _ in points) or 1.0
    values = [y for points in thinned.values() for _, y in points]
    up = round_steps(0 if from_zero else min(values), max(values), most=6)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (RIGHT - LEFT) * x / last,
            BOTTOM - (BOTTOM - TOP) * (y - up[0]) / (up[-1] - up[0]),
        )

    curves = []
    for name, points in thinned.items():
        places = [place(*point) for point in points]
        curves.append(
            Curve(
                series=name,
                points=" ".join("{:.1f},{:.1f}".format(*point) for point in places),
                dots=dots(places) if len(places) <= DOTS_SHOWN else "",
                last=series[name][-1][1],
            )
        )
    return LineChart(
        curves,
        across=[Tick(place(x, up[0])[0], compact(x)) for x in round_steps(0, last, most=5) if x <= last],
        up=[Tick(place(0, y)[1], compact(y)) for y in up],
    )


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / POINTS_SHOWN)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def dots(places: Sequence[tuple[float, float]]) -> str:
    """An SVG path that draws each point as a disc as wide as the stroke, given round line caps."""
    return "".join("M{:.1f} {:.1f}h0".format(*place) for place in places)


def histograms(samples: Sequence[npt.NDArray[np.float64]], height: float = 120) -> list[Histogram]:
    """Counts of each sample in equal bins over one range with round bounds, so that samples can be compared.

    There are `BINS` bins, or up to `MOST_BINS` if a sample covers only a part of the range. Each histogram is as high
    as its highest column.
    """
    if not samples:
        return []
    grid = round_steps(min(float(of.min()) for of in samples), max(float(of.max()) for of in samples), most=5)
    spread = min(float(np.quantile(of, 0.95) - np.quantile(of, 0.05)) for of in samples)
    bins = int(np.clip(10 * (grid[-1] - grid[0]) / max(spread, 1e-300), BINS, MOST_BINS))
    return [_histogram(of, grid, bins, height) for of in samples]


def _histogram(values: npt.NDArray[np.float64], grid: list[float], bins: int, height: float) -> Histogram:
    counts, _ = np.histogram(values.clip(grid[0], grid[-1]), bins, (grid[0], grid[-1]))
    left, right, bottom = 12.0, WIDTH - 12.0, height - 22
    width, scale = (right - left) / bins, (bottom - 4) / counts.max()
    columns = [
        (left + width * position, bottom - count * scale, width - min(1, width / 6), count * scale)
        for position, count in enumerate(counts.tolist())
        if count
    ]
    ticks = [Tick(left + (right - left) * (value - grid[0]) / (grid[-1] - grid[0]), compact(value)) for value in grid]
    return Histogram(columns, ticks)
