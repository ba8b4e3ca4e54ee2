"""The report and the table for terminals."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tests.conftest import SmallConfig
from twhin_core.evaluation.charts import bar_chart, line_chart
from twhin_core.evaluation.metrics import Metrics, names
from twhin_core.evaluation.report import write_report
from twhin_core.evaluation.summary import print_summary

NASTY = '<script>alert("1")</script>&.x'
VOID = {"meta", "line", "rect", "circle", "polyline"}


class Page(HTMLParser):
    """Tags that are open, texts, and every attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def made_metrics(relations: list[str], of: list[str], planted: bool = True) -> Metrics:
    def figures(base: float) -> dict[str, dict[str, float]]:
        return {
            relation: {name: round(base + position / 100 + row / 10_000, 4) for row, name in enumerate(of)}
            | {"edges": 1000 - position}
            for position, relation in enumerate(["all", *relations])
        }

    metrics: Metrics = {
        "test": figures(0.3),
        "baselines": {"popularity": figures(0.2), "random": figures(0.1)},
        "checkpoint": 4321,
        "config": "0",
        "graph": {"tables": {"user": 40, "tweet": 30}, "edges": {"train": 480, "test": 60}},
        "version": "0",
    }
    if planted:
        metrics["planted"] = {relation: {"mrr": 0.9, "edges": 9} for relation in ["all", *relations]}
    return metrics


def report(config: SmallConfig, metrics: Metrics, root: Path) -> tuple[str, Page]:
    write_report(str(root / "report.html"), metrics, config(), str(root))
    page = (root / "report.html").read_text()
    return page, Page(page)


def test_it_has_every_metric_beside_the_baselines_and_the_optimum(small_config: SmallConfig, tmp_path: Path) -> None:
    metrics = made_metrics(["follow", "fav"], names(small_config().evaluation))
    _, page = report(small_config, metrics, tmp_path)
    for name, value in metrics["test"]["all"].items():
        if name != "edges":
            assert name in page.texts
            assert f"{value:.4f}" in page.texts
            assert f"{metrics['baselines']['popularity']['all'][name]:.4f}" in page.texts
            assert f"{metrics['baselines']['random']['all'][name]:.4f}" in page.texts
    for text in ("follow", "fav", "planted optimum", "0.9000", "nodes of tweet", "train edges", "480"):
        assert text in page.texts


def test_names_from_outside_are_escaped(small_config: SmallConfig, tmp_path: Path) -> None:
    metrics = made_metrics([NASTY, "fav"], names(small_config().evaluation))
    source, page = report(small_config, metrics, tmp_path)
    assert "<script" not in source
    assert NASTY in page.texts


def test_it_loads_nothing_and_runs_nothing(small_config: SmallConfig, tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training/metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    source, page = report(small_config, made_metrics(["fav"], names(small_config().evaluation)), tmp_path)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "a", "image", "use"}
    assert not {name for name, _ in page.attributes} & {"src", "href", "xlink:href", "style", "onload"}
    assert "url(" not in source
    assert "@import" not in source
    assert "http" not in source


def test_the_loss_curve_is_of_the_last_line_of_each_step(small_config: SmallConfig, tmp_path: Path) -> None:
    metrics = made_metrics(["fav"], names(small_config().evaluation))
    source, page = report(small_config, metrics, tmp_path)
    assert "polyline" not in page.tags
    lines = [
        {"step": 10, "epoch": 0, "loss": 5.0, "edges_per_s": 1.0},
        {"step": 20, "epoch": 0, "loss": 9.0, "edges_per_s": 1.0},
        {"step": 20, "epoch": 0, "loss": 3.25, "edges_per_s": 1.0},
        {"step": 20, "epoch": 0, "validation_loss": 4.5},
    ]
    (tmp_path / "training").mkdir()
    (tmp_path / "training/metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    source, page = report(small_config, metrics, tmp_path)
    curves = re.findall(r'<polyline class="(\w+)" points="([^"]*)"', source)
    assert [(series, len(points.split())) for series, points in curves] == [("training", 2), ("validation", 1)]
    assert "3.25" in page.texts
    assert "4.5" in page.texts


def test_of_many_relations_the_largest_are_shown(small_config: SmallConfig, tmp_path: Path) -> None:
    relations = [f"relation-{position}" for position in range(50)]  # each has one edge less than the one before
    metrics = made_metrics(relations, names(small_config().evaluation), planted=False)
    _, page = report(small_config, metrics, tmp_path)
    shown = {text for text in page.texts if text.startswith("relation-")}
    assert shown == set(relations[:20])
    assert any("20 relations with the most test edges, of 50" in " ".join(text.split()) for text in page.texts)


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart(["a", "b"], ["", ""], {"result": [0.2, 0.4], "popularity": [0.1, 0.0]}, [0.8, None])
    (_, first, text), (_, popular, _) = chart.rows[0].bars
    assert chart.rows[1].bars[0][1] == pytest.approx(2 * first)
    assert popular == pytest.approx(first / 2)
    assert (text, chart.rows[1].bars[1][1]) == ("0.200", 0)
    assert (chart.rows[0].mark, chart.rows[1].mark) == (pytest.approx(4 * first), None)
    by_label = {tick.label: tick.at for tick in chart.ticks}
    assert by_label["0.4"] == pytest.approx(2 * first)


def test_points_of_a_curve_lie_where_the_grid_says() -> None:
    chart = line_chart({"training": [(0, 4.0), (100, 2.0)]})
    assert chart is not None
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in chart.curves[0].points.split())
    across, up = ({tick.label: tick.at for tick in ticks} for ticks in (chart.across, chart.up))
    assert (x0, x1) == (pytest.approx(across["0"], abs=0.1), pytest.approx(across["100"], abs=0.1))
    assert (y0, y1) == (pytest.approx(up["4"], abs=0.1), pytest.approx(up["2"], abs=0.1))


def test_a_long_curve_is_thinned_to_means() -> None:
    chart = line_chart({"training": [(step, float(step % 2)) for step in range(1, 3001)]})
    assert chart is not None
    points = chart.curves[0].points.split()
    assert len(points) == 300
    assert len({point.split(",")[1] for point in points}) == 1  # each is the mean of five 0 and five 1
    assert chart.curves[0].last == "0.5"


@pytest.mark.parametrize("values", [[0.0], [3.0], [-2.0, -1.0], [1e-9, 2e-9], [0.1, 1e9]])
def test_a_curve_of_any_values_has_a_grid_around_it(values: list[float]) -> None:
    chart = line_chart({"training": [(float(step), value) for step, value in enumerate(values)]})
    assert chart is not None
    heights = [float(point.split(",")[1]) for point in chart.curves[0].points.split()]
    grid = [tick.at for tick in chart.up]
    assert min(grid) - 0.1 <= min(heights) <= max(heights) <= max(grid) + 0.1
    assert 2 <= len(grid) <= 11


def test_the_terminal_shows_the_result_beside_the_baselines(small_config: SmallConfig) -> None:
    relations = [f"[bold]{position}" for position in range(12)]
    metrics = made_metrics(relations, names(small_config().evaluation))
    text = io.StringIO()
    print_summary(metrics, Console(file=text, width=120))
    rows = [line.replace("│", " ").split() for line in text.getvalue().splitlines()]
    assert ["mrr", "0.3000", "0.2000", "0.1000", "0.9000"] in rows
    assert any(row[:1] == ["recall@20"] and row[-1] == "–" for row in rows)
    assert ["[bold]0", "999", "0.3100", "0.2100", "0.1100", "0.9000"] in rows
    assert "10 largest of 12" in text.getvalue()
    assert "[bold]10" not in text.getvalue()
