"""Curves of training by step, from its log."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import ALL_DONE, FINISHED
from twhin_core.checksum import unseal_lines
from twhin_core.config import Config
from twhin_core.evaluation.metrics import ALL, SAMPLED
from twhin_core.evaluation.result import place
from twhin_core.progress import log
from twhin_core.report.charts import POINTS_SHOWN, LineChart, line_chart
from twhin_core.training.schedules import rate, until

LOG = "training/metrics.jsonl"

WEIGHT = "weight/"
"""What the names of relations' weights start with in the log."""

SERIES = ("first", "second", "third", "fourth")
"""The CSS classes of curves, one color each."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """A chart over steps. The legend has (series, label, last value)."""

    title: str
    chart: LineChart
    legend: list[tuple[str, str, str]]
    note: str = ""


def panels(config: Config, root: str) -> list[Panel]:
    """The charts of training for which there is data; none if the run was trained elsewhere."""
    url = storage.join(root, LOG)
    lines = unseal_lines(storage.read_bytes(url), url) if storage.exists(url) else []
    if not lines and storage.exists(storage.join(root, FINISHED)):
        log.warning("report: shows no curves of training: %s is missing or empty", url)
    steps = max((line["step"] for line in lines), default=0)
    losses = {
        "first": ("training", _points(lines, "loss")),
        "second": ("validation", _points(lines, "validation_loss")),
    }
    found = [
        _panel("Loss", losses), _quality(config, root), _weights(config, lines), _rates(config, root, steps),
        _throughput(lines),
    ]  # fmt: skip
    return [panel for panel in found if panel is not None]


def _points(lines: list[dict[str, Any]], key: str) -> Points:
    """A logged figure by step. Of a step that was logged again after a restart, the last line counts."""
    return sorted({line["step"]: line[key] for line in lines if key in line}.items())


def _panel(title: str, curves: dict[str, tuple[str, Points]], from_zero: bool = False, note: str = "") -> Panel | None:
    """A panel of `curves`: series → (label, points), without those that have no points; None if none has two."""
    chart = line_chart({series: points for series, (_, points) in curves.items()}, from_zero)
    if chart is None or all(len(points) < 2 for _, points in curves.values()):
        return None
    legend = [(curve.series, curves[curve.series][0], _number(curve.last)) for curve in chart.curves]
    return Panel(title, chart, legend, note)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _throughput(lines: list[dict[str, Any]]) -> Panel | None:
    points, waits = _points(lines, "edges_per_s"), [value for _, value in _points(lines, "data_wait")]
    if not points:
        return None
    note = f"Median {statistics.median(value for _, value in points):,.0f} edges/s."
    if waits:
        note += f" {statistics.fmean(waits):.1%} of the time was spent waiting for data."
    return _panel("Throughput", {"first": ("edges/s", points)}, from_zero=True, note=note)


def _quality(config: Config, root: str) -> Panel | None:
    """The headline by step, if `twhin evaluate --follow` evaluated several checkpoints."""
    split, headline, points = config.evaluation.split, config.evaluation.headline, []
    folder = place(root, split)
    names: set[str] = set()
    for name in storage.list_folders(folder):
        metrics = storage.find_json(storage.join(folder, name, "metrics.json")) if name.isdigit() else None
        figures = (metrics or {}).get(split, {}).get(ALL, {})
        for metric in (headline, f"{SAMPLED}{headline}"):
            if metric in figures:
                names.add(metric)
                points.append((float(name), figures[metric]))
    if len(points) < 2 or len(names) > 1:  # exact and sampled figures must not share a curve
        return None
    return _panel("Ranking by checkpoint", {"second": (f"{split} {names.pop()}", sorted(points))})


def _weights(config: Config, lines: list[dict[str, Any]]) -> Panel | None:
    """The weights found with `model.target`, the largest at the end first."""
    names = {name for line in lines for name in line if name.startswith(WEIGHT)}
    curves = sorted(((_points(lines, name), name) for name in names), key=lambda curve: (-curve[0][-1][1], curve[1]))
    named = ((name.removeprefix(WEIGHT), points) for points, name in curves)
    note = f"{len(curves) - len(SERIES)} smaller ones are not shown." if len(curves) > len(SERIES) else ""
    title = f"Weight beside {config.model.target}"
    return _panel(title, dict(zip(SERIES, named, strict=False)), from_zero=True, note=note)


def _rates(config: Config, root: str, steps: int) -> Panel | None:
    """The learning rates if any of them changes. Optimizers with the same schedule share a curve.

    A cosine that falls until the last step can only be drawn once training has ended there.
    """
    finished = storage.find_json(storage.join(root, FINISHED)) or {}
    if finished.get("reason") == ALL_DONE:
        config = until(finished["step"], config)
    optimizers = {table.name: table.optimizer for table in config.model.embeddings.tables}
    optimizers["relations"] = config.model.translation_optimizer
    if not steps or any(optimizer.ends_with_training for optimizer in optimizers.values()):
        return None
    at = sorted({max(1, round(steps * part / POINTS_SHOWN)) for part in range(POINTS_SHOWN + 1)})
    curves: dict[tuple[float, ...], list[str]] = {}
    for name, optimizer in optimizers.items():
        curves.setdefault(tuple(rate(optimizer, step) for step in at), []).append(name)
    if all(len(set(rates)) == 1 for rates in curves):
        return None
    named = [(_names(of), list(zip(map(float, at), rates, strict=True))) for rates, of in curves.items()]
    note = f"{len(named) - len(SERIES)} more schedules are not shown." if len(named) > len(SERIES) else ""
    return _panel("Learning rate", dict(zip(SERIES, named, strict=False)), from_zero=True, note=note)


def _names(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"])
