"""The page of a sweep: its figures are those of the trials, and it is only a page."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.page import Page
from twhin_core.report.charts import BOTTOM, LEFT, RIGHT, TOP
from twhin_core.report.sweep import Ranged, Tried, write_sweep_report

NASTY = ['<script>alert("1")</script>', "w o r d s " * 20, "{{ 7 * 7 }}", "null"]
SPACE = [
    Ranged("model.temperature", "temperature", [], 0.1, 10.0, is_log=True),
    Ranged("model.init_std", "init_std", [], 0.0, 1.0),
    Ranged("model.loss", "loss", NASTY),
]
METRIC = "validation.<b>all</b>.recall@20"


@st.composite
def sweeps(draw: st.DrawFn) -> list[Tried]:
    """Trials as the page gets them: complete ones, the best first, then the others; at least one is complete."""
    numbers = draw(st.permutations(range(1, draw(st.integers(1, 12)) + 1)))
    figure = st.floats(0.0, 1.0)
    found = []
    for position, number in enumerate(numbers):
        state = "complete" if position == 0 else draw(st.sampled_from(["complete", "stopped", "failed"]))
        looks = 4 if state == "complete" else draw(st.integers(1, 3)) if state == "stopped" else 0
        curve = [(look / 4, draw(figure)) for look in range(1, looks + 1)]
        values = {"model.temperature": draw(st.floats(0.1, 10.0)), "model.loss": draw(st.sampled_from(NASTY))}
        if draw(st.booleans()):
            values["model.init_std"] = draw(figure)
        reason = NASTY[0] if state == "failed" else ""
        found.append(Tried(number, state, curve[-1][1] if curve else None, curve, 1.5, values, reason))
    return sorted(found, key=lambda of: (of.state != "complete", -of.share, -(of.value or 0.0)))


@settings(max_examples=40)
@given(trials=sweeps())
def test_the_page_shows_every_trial_and_nothing_runs(trials: list[Tried], tmp_path_factory: object) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "sweep.html"  # type: ignore[attr-defined]
    shares = {"model.temperature": 0.7, "model.loss": 0.3}
    write_sweep_report(str(path), "/runs/<i>mine</i>", METRIC, trials[0], trials, SPACE, shares, NASTY[0])
    page = Page(path.read_text())
    assert "script" not in page.tags
    assert "<b>all" not in page.source
    assert "<i>mine" not in page.source

    rows = [row for row in page.rows if row[0].isdecimal()]
    assert [int(row[0]) for row in rows] == [of.number for of in trials]
    for row, of in zip(rows, trials, strict=True):
        assert row[1] == ("–" if of.value is None else f"{of.value:.4f}")
        assert row[2:4] == [of.state, f"{of.share:.0%}"]
    text = " ".join(page.texts)
    for state in ("complete", "stopped", "failed"):
        count = sum(of.state == state for of in trials)
        assert (f"{count} {state}" in text) == (count > 0)
    # All that is drawn lies within the plot of its chart.
    for points in re.findall(r'points="([^"]+)"', page.source):
        for x, y in (map(float, point.split(",")) for point in points.split()):
            assert LEFT - 0.1 <= x <= RIGHT + 0.1
            assert TOP - 0.1 <= y <= BOTTOM + 0.1
    for x, y in re.findall(r"M(\d+\.\d) (\d+\.\d)h0", page.source):
        assert LEFT - 0.1 <= float(x) <= RIGHT + 0.1
        assert TOP - 0.1 <= float(y) <= BOTTOM + 0.1


def test_dots_are_where_the_values_are(tmp_path: Path) -> None:
    """On a logarithmic axis from .1 to 10, 1 is in the middle; of four choices, the first is at an eighth."""
    trials = [
        Tried(2, "complete", 0.8, [(1.0, 0.8)], 1.0, {"model.temperature": 1.0, "model.loss": NASTY[0]}, ""),
        Tried(1, "complete", 0.4, [(1.0, 0.4)], 1.0, {"model.temperature": 10.0, "model.loss": NASTY[3]}, ""),
    ]
    path = tmp_path / "sweep.html"
    write_sweep_report(str(path), "root", "validation.all.mrr", trials[0], trials, SPACE, {}, "")
    source = path.read_text().split('id="values"')[1].split('id="trials"')[0]
    places = [float(x) for x in re.findall(r"M(\d+\.\d) \d+\.\dh0", source)]
    width = RIGHT - LEFT
    expected = [RIGHT, LEFT + width / 2, LEFT + width * 7 / 8, LEFT + width / 8]  # others, then the best
    assert all(abs(place - of) <= 0.1 for place, of in zip(places, expected, strict=True))
    assert "No complete trial has it." in source
    assert 'id="importances"' not in path.read_text()
