"""Marks lie where their values say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twhin_core.report.axes import compact, round_steps
from twhin_core.report.charts import HEIGHT, WIDTH, bar_chart, histograms, line_chart


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart(
        ["a", "b"],
        ["", ""],
        {"result": [0.2, 0.4], "popularity": [0.1, None]},
        {"result": [(0.1, 0.3), None]},
        [0.8, None],
    )
    result, popularity = chart.rows[0].bars
    (other,) = chart.rows[1].bars
    assert other.length == pytest.approx(2 * result.length)
    assert popularity.length == pytest.approx(result.length / 2)
    assert (result.figure, popularity.figure, other.figure) == ("0.200", "0.100", "0.400")
    assert result.whisker == (pytest.approx(result.length / 2), pytest.approx(1.5 * result.length))
    assert other.whisker is None
    assert (chart.rows[0].mark, chart.rows[1].mark) == (pytest.approx(4 * result.length), None)
    by_label = {tick.label: tick.at for tick in chart.ticks}
    assert by_label["0.4"] == pytest.approx(other.length)
    assert chart.ticks[-1].at == 100


def test_a_whisker_beyond_all_bars_has_room() -> None:
    chart = bar_chart(["a"], [""], {"result": [0.2]}, {"result": [(0.1, 0.9)]})
    whisker = chart.rows[0].bars[0].whisker
    assert whisker is not None
    assert whisker[1] <= 100


def test_points_of_a_curve_lie_where_the_grid_says() -> None:
    chart = line_chart({"first": [(0, 4.0), (100, 2.0)]})
    assert chart is not None
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in chart.curves[0].points.split())
    across, up = ({tick.label: tick.at for tick in ticks} for ticks in (chart.across, chart.up))
    assert (x0, x1) == (pytest.approx(across["0"], abs=0.1), pytest.approx(across["100"], abs=0.1))
    assert (y0, y1) == (pytest.approx(up["4"], abs=0.1), pytest.approx(up["2"], abs=0.1))
    assert chart.curves[0].dots == f"M{x0} {y0}h0M{x1} {y1}h0"


def test_a_long_curve_is_thinned_to_means_and_ends_with_its_last_value() -> None:
    chart = line_chart({"first": [(step, float(step % 2)) for step in range(1, 3001)]})
    assert chart is not None
    points = chart.curves[0].points.split()
    assert len(points) == 300
    assert len({point.split(",")[1] for point in points}) == 1  # each is the mean of five 0 and five 1
    assert (chart.curves[0].last, chart.curves[0].dots) == (0.0, "")


@pytest.mark.parametrize("values", [[0.0], [3.0], [-2.0, -1.0], [1e-9, 2e-9], [0.1, 1e9]])
def test_a_curve_of_any_values_has_a_grid_around_it(values: list[float]) -> None:
    chart = line_chart({"first": [(float(step), value) for step, value in enumerate(values)]})
    assert chart is not None
    heights = [float(point.split(",")[1]) for point in chart.curves[0].points.split()]
    grid = [tick.at for tick in chart.up]
    assert min(grid) - 0.1 <= min(heights) <= max(heights) <= max(grid) + 0.1
    assert 0 <= min(grid) <= max(grid) <= HEIGHT
    assert 2 <= len(grid) <= 9


def test_columns_of_a_histogram_are_as_high_as_their_counts() -> None:
    (chart,) = histograms([np.array([1.0] * 10 + [2.0] * 5 + [4.0])])
    heights = [height for *_, height in chart.columns]
    assert heights == pytest.approx([heights[0], heights[0] / 2, heights[0] / 10])
    by_label = {tick.label: tick.at for tick in chart.across}
    for (x, _, width, _), value in zip(chart.columns, ("1", "2", "4"), strict=True):
        assert x - 1.5 <= by_label[value] <= x + width + 1.5


@pytest.mark.parametrize("seed", range(12))
def test_histograms_share_an_axis(seed: int) -> None:
    """Each column holds as many of its sample's values as its height says, at the same places in every chart."""
    rng = np.random.default_rng(seed)
    samples = [rng.normal(*rng.uniform([-5, 0.01], [5, 3]), rng.integers(2, 4000)) for _ in range(rng.integers(1, 6))]
    charts = histograms(samples)
    assert len({tuple(chart.across) for chart in charts}) == 1
    left, right = charts[0].across[0], charts[0].across[-1]
    per_unit = (float(right.label) - float(left.label)) / (right.at - left.at)
    for chart, sample in zip(charts, samples, strict=True):
        highest = max(height for *_, height in chart.columns)
        tops = [(x, width, height) for x, _, width, height in chart.columns]
        counts = [
            ((sample >= float(left.label) + (x - left.at) * per_unit - 1e-9)
             & (sample < float(left.label) + (x - left.at + width * 1.3) * per_unit)).sum()
            for x, width, _ in tops
        ]  # fmt: skip
        assert max(counts) >= max(1, len(sample) // 90)
        assert len(chart.columns) <= len(sample)
        assert min(x for x, *_ in tops) >= left.at - 1e-9
        assert all(0 < height <= highest for *_, height in tops)
        middle = float(left.label) + (np.average([x + width / 2 for x, width, _ in tops], weights=[h for *_, h in tops])
                                      - left.at) * per_unit  # fmt: skip
        assert middle == pytest.approx(sample.mean(), abs=per_unit * (right.at - left.at) / 30)


@pytest.mark.parametrize("value", [0.0, 0.29999999999999, 1e-30, 7e12])
def test_equal_values_make_one_column(value: float) -> None:
    (chart,) = histograms([np.full(50, value)])
    assert len(chart.columns) == 1
    x, y, width, height = chart.columns[0]
    assert 0 <= x < x + width <= WIDTH
    assert height > 0 <= y


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0917, 0.0934), (-3, 8), (5, 5), (0, 0), (1, 12345)])
@pytest.mark.parametrize("most", [5, 6, 8])
def test_steps_are_few_even_and_enclose_the_values(low: float, high: float, most: int) -> None:
    steps = round_steps(low, high, most)
    assert steps[0] <= low + 1e-9
    assert steps[-1] >= high - 1e-9
    assert np.diff(steps) == pytest.approx(steps[1] - steps[0])
    assert 2 <= len(steps) <= most + 2


@settings(max_examples=300)
@given(ends=st.tuples(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12)).map(sorted), most=st.sampled_from([5, 6, 8]))
@example(ends=[0.0, 5e-324], most=6)
@example(ends=[0.5, 0.5 + 2e-16], most=6)
@example(ends=[-1.0, -1.0 + 2e-9], most=6)
def test_steps_ascend_and_enclose_any_values(ends: list[float], most: int) -> None:
    low, high = ends
    steps = round_steps(low, high, most)
    assert all(np.diff(steps) > 0)
    assert 2 <= len(steps) <= most + 2
    slack = max(1e-8 * max(abs(low), abs(high)), 1e-300)
    assert steps[0] <= low + slack
    assert steps[-1] >= high - slack


def test_labels_of_ticks_are_short() -> None:
    assert [compact(value) for value in (0, 0.25, 950, 2500, 3e6, 12.5e9, -1500)] == [
        "0", "0.25", "950", "2.5k", "3M", "12.5G", "-1.5k",
    ]  # fmt: skip
