"""Round tick values for the axes of charts."""

from __future__ import annotations

import math
from dataclasses import dataclass

SAME = 1e-9
"""The share of two numbers' size by which they differ if they are as good as the same."""
SMALLEST = 1e-300
"""As good as 0: below, floats lose their digits."""


@dataclass(frozen=True)
class Tick:
    """A grid line. `at` is in the chart's units."""

    at: float
    label: str


def round_steps(low: float, high: float, most: int = 8) -> list[float]:
    """Evenly spaced round numbers that enclose [low, high]: at most `most` + 1."""
    size = max(abs(low), abs(high))
    span = high - low
    if span <= max(SAME * size, SMALLEST):  # the ticks between would have the same label
        span = size if size > SMALLEST else 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20, 25, 50, 100) if power * factor * most >= span * 1.2)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * position:.12g}") for position in range(first, max(last, first + 1) + 1)]


def compact(value: float) -> str:
    """A tick's label: 2500 as 2.5k, 3000000 as 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
