"""The lengths of the vectors and their projection onto two dimensions, from a sample of each table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twhin_core.report.axes import Tick, compact, round_steps
from twhin_core.report.charts import WIDTH, Histogram, dots, histograms
from twhin_core.vectors.rows import Ints, Rows

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 4096
"""Sampled rows per table."""

POINTS = 4096
"""Points of the projection over all tables."""

TABLES_SHOWN = 8
"""Maximum number of tables, the largest ones; each has its own color and shape."""

LAYERS = 4
"""The points of each table are drawn in this many turns, so that no table covers all others."""

MARGIN = 22.0

STRETCH = 32
"""Length of the runs of adjacent rows that make up a sample; each run is one read."""


ROUNDING = 1e-5
"""What lengths may differ by, relatively, and still be the same."""


LEAST_SHARE = 0.1
"""Of the variance, that a projection must carry to be drawn."""


@dataclass(frozen=True)
class Norms:
    """The lengths of a table's sampled rows. `color` is the table's position."""

    table: str
    color: int
    sampled: int
    chart: Histogram | None
    """None if all have the same length, but for rounding."""
    median: float
    low: float
    high: float
    """5 % and 95 % quantiles."""


@dataclass(frozen=True)
class Projection:
    """The sampled rows on their first two principal components.

    Nothing is drawn if these carry less than `LEAST_SHARE` of the variance.
    """

    tables: list[tuple[str, int]]
    """Names and point counts."""
    points: int
    layers: list[tuple[int, str]]
    """Colors (the table's position) and SVG paths, each of some of a table's points."""
    across: list[Tick]
    up: list[Tick]
    shares: tuple[float, float]
    """The share of the variance that each component explains."""
    unit_length: bool

    @property
    def is_drawn(self) -> bool:
        return sum(self.shares) >= LEAST_SHARE


def collect(tables: dict[str, Rows], seed: int, unit_length: bool) -> dict[str, Any]:
    """The content of the section, from a sample of the largest `tables`.

    Args:
        unit_length: project the vectors at length 1, for a comparator that ignores their length.

    Raises:
        OSError: rows cannot be read.
    """
    largest = sorted(tables, key=lambda name: -tables[name].size)[:TABLES_SHOWN]
    samples = {
        name: tables[name].gather(sample_rows(tables[name].size, SAMPLE, seed)) for name in tables if name in largest
    }
    return {
        "norms": (norms := _norms(samples)),
        "constant": _constant(norms),
        "projection": _project(samples, unit_length),
        "sample": SAMPLE,
    }


def sample_rows(size: int, count: int, seed: int = 0, stretch: int = STRETCH) -> Ints:
    """At most `count` of `size` rows, ascending: all of them, or random runs of `stretch` adjacent rows."""
    if size <= count:
        return np.arange(size)
    starts = np.random.default_rng(seed).choice(size // stretch, max(1, count // stretch), replace=False) * stretch
    rows: Ints = (np.sort(starts)[:, None] + np.arange(stretch)).reshape(-1)
    return rows


def _norms(samples: dict[str, Tensor]) -> list[Norms]:
    """The lengths of every table, with histograms on one axis."""
    lengths = {name: vectors.norm(dim=1).numpy().astype(np.float64) for name, vectors in samples.items()}
    vary = {name: of for name, of in lengths.items() if np.ptp(of) > ROUNDING * np.median(of)}
    charts = dict(zip(vary, histograms(list(vary.values())), strict=True))
    return [
        Norms(name, color, len(of), charts.get(name), *(float(np.quantile(of, share)) for share in (0.5, 0.05, 0.95)))
        for color, (name, of) in enumerate(lengths.items())
    ]


def _constant(norms: list[Norms]) -> dict[str, list[str]]:
    """The tables whose rows all have the same length, by that length."""
    found: dict[str, list[str]] = {}
    for of in norms:
        if of.chart is None:
            found.setdefault(f"{of.median:.3g}", []).append(of.table)
    return found


def principal_components(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Coordinates [N, 2] of rows [N, dim] on the first two principal components, and their shares of the variance.

    The components are eigenvectors of the covariance. Their signs make the entry of largest magnitude positive.
    """
    import torch

    centered = (vectors - vectors.mean(0)).to(torch.float64)
    values, directions = torch.linalg.eigh(centered.T @ centered)
    first = directions[:, -2:].flip(1)
    first = first * first.gather(0, first.abs().argmax(0, keepdim=True)).sign()
    total = values.sum().clamp(min=1e-300)
    return centered @ first, (float(values[-1] / total), float(values[-2] / total))


def _project(samples: dict[str, Tensor], unit_length: bool) -> Projection | None:
    import torch

    points = POINTS // max(1, len(samples))
    taken = {name: vectors[:: max(1, -(-len(vectors) // points))] for name, vectors in samples.items()}
    together = torch.cat(list(taken.values())) if taken else torch.empty(0, 2)
    if unit_length:
        together = torch.nn.functional.normalize(together, dim=1)
    if len(together) < 3 or float(together.var(0).sum()) == 0:
        return None
    coordinates, shares = principal_components(together)
    (left, low), (right, high) = coordinates.amin(0).tolist(), coordinates.amax(0).tolist()
    side = (WIDTH - 2 * MARGIN) / max(right - left, high - low)  # the same scale both ways
    middle = (left + right) / 2, (low + high) / 2

    def place(x: float, y: float) -> tuple[float, float]:
        return WIDTH / 2 + (x - middle[0]) * side, WIDTH / 2 - (y - middle[1]) * side

    places = [place(x, y) for x, y in coordinates.tolist()]
    layers, start = [], 0
    for color, vectors in enumerate(taken.values()):
        of_table = places[start : start + len(vectors)]
        layers += [(turn, color, dots(of_table[turn::LAYERS])) for turn in range(LAYERS) if of_table[turn::LAYERS]]
        start += len(vectors)
    return Projection(
        tables=[(name, len(vectors)) for name, vectors in taken.items()],
        points=len(together),
        layers=[(color, points) for _, color, points in sorted(layers)],
        across=[Tick(place(x, 0)[0], compact(x)) for x in round_steps(left, right) if left <= x <= right],
        up=[Tick(place(0, y)[1], compact(y)) for y in round_steps(low, high) if low <= y <= high],
        shares=shares,
        unit_length=unit_length,
    )
