"""Curves of quality over seconds of training, as an SVG that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from twhin_core.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart

COLORS = ("#1f6feb", "#d1720f", "#6e7781")


def draw(curves: Mapping[str, Sequence[tuple[float, float, float]]], metric: str, target: float) -> str:
    """`curves`: (seconds, epochs, quality) for each name; `target` is drawn as a dashed line."""
    last = max(seconds for of in curves.values() for seconds, *_ in of)
    series = {name: [(seconds, found) for seconds, _, found in of] for name, of in curves.items()}
    chart = line_chart({**series, "target": [(0.0, target), (last, target)]}, from_zero=True)
    assert chart is not None
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT + 26:g}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH:g}" height="{HEIGHT + 26:g}" fill="white"/>',
    ]
    for tick in chart.up:
        parts.append(f'<path d="M{LEFT:g} {tick.at:.1f}H{RIGHT:g}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6:g}" y="{tick.at + 4:.1f}" text-anchor="end">{tick.label}</text>')
    parts += [
        f'<text x="{tick.at:.1f}" y="{BOTTOM + 16:g}" text-anchor="middle">{tick.label}</text>' for tick in chart.across
    ]
    parts.append(f'<text x="{RIGHT:g}" y="{HEIGHT + 8:g}" text-anchor="end">seconds of training</text>')
    parts.append(f'<text x="{LEFT:g}" y="{TOP - 1:g}">{escape(metric)}</text>')
    for number, drawn in enumerate(chart.curves):
        is_target = drawn.series == "target"
        stroke = 'stroke="#999" stroke-dasharray="4 3"' if is_target else f'stroke="{COLORS[number]}" stroke-width="2"'
        parts.append(f'<polyline points="{drawn.points}" fill="none" {stroke}/>')
        if not is_target:
            parts.append(
                f'<text x="{LEFT + 90 * number:g}" y="{HEIGHT + 20:g}" fill="{COLORS[number]}">{drawn.series}</text>'
            )
    return "\n".join([*parts, "</svg>\n"])
