"""Where the marks of the report's two charts go; `report_template.html` draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH = 720
POINTS_SHOWN = 300


@dataclass(frozen=True)
class Tick:
    """A line of the grid; `at` in the chart's units."""

    at: float
    label: str


@dataclass(frozen=True)
class BarRow:
    """A relation's bars, under its name; `y` is the top of the name's line."""

    y: float
    name: str
    note: str
    bars: list[tuple[str, float, str]]
    """(series, length, figure), in the order of the legend."""
    mark: float | None
    """Where the planted optimum is."""


@dataclass(frozen=True)
class BarChart:
    height: float
    rows: list[BarRow]
    ticks: list[Tick]


@dataclass(frozen=True)
class Curve:
    """One line of a chart; `points` as an SVG polyline has them."""

    series: str
    points: str
    end: tuple[float, float]
    last: str


@dataclass(frozen=True)
class LineChart:
    height: float
    curves: list[Curve]
    across: list[Tick]
    up: list[Tick]


def bar_chart(
    names: Sequence[str], notes: Sequence[str], series: Mapping[str, Sequence[float]], marks: Sequence[float | None]
) -> BarChart:
    """Horizontal bars from 0, a row a name and a bar a series; `marks` are single values to compare with."""
    row_height, top = 24 + 13 * len(series), 4
    highest = max([*(value for values in series.values() for value in values), *(mark or 0 for mark in marks), 1e-9])
    grid = _round_steps(0, highest)
    scale = (WIDTH - 60) / grid[-1]
    rows = [
        BarRow(
            y=top + position * row_height,
            name=name,
            note=notes[position],
            bars=[(label, values[position] * scale, f"{values[position]:.3f}") for label, values in series.items()],
            mark=None if marks[position] is None else float(marks[position] or 0) * scale,
        )
        for position, name in enumerate(names)
    ]
    return BarChart(top + row_height * len(names) + 20, rows, [Tick(value * scale, f"{value:g}") for value in grid])


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], height: float = 260) -> LineChart | None:
    """Lines over (x, y) points, thinned to some hundred by the mean of neighbours; None where there are no points."""
    thinned = {name: _thin(points) for name, points in series.items() if points}
    if not thinned:
        return None
    across = _round_steps(0, max(x for points in thinned.values() for x, _ in points))
    values = [y for points in thinned.values() for _, y in points]
    up = _round_steps(min(values), max(values))
    left, right, top, bottom = 52.0, WIDTH - 60.0, 12.0, height - 28.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (right - left) * (x - across[0]) / (across[-1] - across[0]),
            bottom - (bottom - top) * (y - up[0]) / (up[-1] - up[0]),
        )

    curves = [
        Curve(
            series=name,
            points=" ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points),
            end=place(*points[-1]),
            last=f"{points[-1][1]:.4g}",
        )
        for name, points in thinned.items()
    ]
    return LineChart(
        height=height,
        curves=curves,
        across=[Tick(place(x, up[0])[0], f"{x:,.0f}") for x in across],
        up=[Tick(place(across[0], y)[1], f"{y:.4g}") for y in up],
    )


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / POINTS_SHOWN)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _round_steps(low: float, high: float) -> list[float]:
    """Four to nine evenly spaced round numbers that enclose low … high."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * 8 >= span * 1.2)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * position, 12) for position in range(first, max(last, first + 1) + 1)]
