"""Costs by hand: hours × machines × prices."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.export.exporting import changed
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.durations import measured, read_durations
from twhin_core.errors import UserError
from twhin_core.report import costs
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.recommend import recommend

H200, A100 = "NVIDIA H200", "NVIDIA A100"
# prices, the stage, its seconds times machines, its GPUs, and the price of an hour and the cost as the table shows them
CASES: list[tuple[dict[str, Any], str, float, list[str], str, str]] = [
    ({"machine": 2}, "train", 3600, [], "2.00", "2.00"),
    ({"machine": 2}, "train", 5400, [], "2.00", "3.00"),
    ({"machine": 2}, "train", 3600, [H200] * 8, "2.00", "2.00"),  # the price of a machine has them
    ({"machine": 2, "accelerators": {H200: 4.5}}, "train", 3600, [H200] * 8, "38.00", "38.00"),
    ({"machine": 2, "accelerators": {H200: 4.5}}, "train", 36_000, [], "2.00", "20.00"),
    ({"accelerators": {H200: 4.5}}, "train", 3600, [H200], "4.50", "4.50"),
    ({"accelerators": {H200: 4.5}}, "train", 3600, [], "–", "–"),
    ({"machine": 2, "accelerators": {H200: 4.5}}, "train", 3600, [A100], "–", "–"),
    ({"machine": 2, "accelerators": {H200: 4.5}}, "train", 3600, [H200, A100], "–", "–"),
    ({"machine": 2, "accelerators": {H200: 4, A100: 1}}, "train", 3600, [H200, A100], "7.00", "7.00"),
    ({"machine": 2, "machines": {"train": 10}}, "train", 3600, [], "10.00", "10.00"),
    ({"machine": 2, "machines": {"train": 10}}, "export", 3600, [], "2.00", "2.00"),
    ({"machines": {"train": 10}}, "export", 3600, [], "–", "–"),
    ({"machines": {"train": 0}}, "train", 3600, [], "0.00", "0.00"),
    ({"machine": 1234.5}, "prepare", 3600, [], "1,234.50", "1,234.50"),
    ({"machine": 0.36}, "prepare", 10, [], "0.36", "0.001"),
    ({"machine": 0.36}, "prepare", 0.1, [], "0.36", "1.0e-05"),
]


@pytest.mark.parametrize(("prices", "stage", "seconds", "gpus", "per_hour", "cost"), CASES)
def test_a_stage_costs_its_hours_times_the_prices(
    prices: dict[str, Any], stage: str, seconds: float, gpus: list[str], per_hour: str, cost: str,
    small_config: SmallConfig, tmp_path: Path,
) -> None:  # fmt: skip
    config = small_config(report={"costs": {"currency": "EUR", **prices}})
    record = {"seconds": 1.0, "machine_seconds": seconds, "gpus": gpus}
    storage.write_json(f"{tmp_path}/durations/{stage}.json", record)
    table = costs.collect(config, str(tmp_path))
    assert table is not None
    assert table.headings == ["stage", "machine time", "EUR per hour", "EUR"]
    (row, total) = table.rows
    assert [row[0], *row[2:]] == [stage, per_hour, cost]
    assert total[0] == ("the stages with a price" if cost == "–" else "all stages")
    assert total[-1] == ("0.00" if cost == "–" else cost)


def test_machines_that_work_together_count_each_and_resumed_work_adds_up(tmp_path: Path) -> None:
    root = str(tmp_path)
    storage.write_json(f"{root}/durations/train.json", {"seconds": 100.0})  # of an earlier version: one machine
    with measured(root, "train", resumes=True, machines=4):
        pass
    with measured(root, "train", resumes=True, machines=3):
        pass
    of = read_durations(root)["train"]
    assert 100 <= of["seconds"] < 101
    assert 100 <= of["machine_seconds"] < 104

    with measured(root, "export", time.monotonic() - 50, machines=4):
        pass
    of = read_durations(root)["export"]
    assert of["machine_seconds"] == pytest.approx(4 * of["seconds"], rel=1e-3)


def test_the_report_shows_costs_if_there_are_prices(trained: tuple[Config, str]) -> None:
    config, root = trained
    page = Path(root, "evaluation/report.html")
    evaluate(config, root)
    assert "<h3>Costs</h3>" not in page.read_text()
    page.unlink()
    metrics = Path(root, "evaluation/metrics.json").read_bytes()
    evaluate(changed(config, "report", costs={"currency": "CHF", "machine": 3600.0}), root)
    assert Path(root, "evaluation/metrics.json").read_bytes() == metrics, "prices measure nothing anew"
    text = page.read_text()
    assert "<h3>Costs</h3>" in text
    assert "CHF per hour" in text
    seconds = sum(of["seconds"] for of in read_durations(root).values())
    table = costs.collect(changed(config, "report", costs={"currency": "CHF", "machine": 3600.0}), root)
    assert table is not None
    assert float(table.rows[-1][-1].replace(",", "")) == pytest.approx(seconds, abs=0.01)  # a franc a second


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"currency": "EUR"}, "report.costs: needs a price"),
        ({"machine": 1}, "report.costs.currency"),
        ({"currency": "euro", "machine": 1}, "report.costs.currency"),
        ({"currency": "EUR", "machine": -1}, "report.costs.machine"),
        ({"currency": "EUR", "machine": "1"}, "report.costs.machine"),
        ({"currency": "EUR", "machines": {"training": 1}}, "report.costs.machines"),
        ({"currency": "EUR", "accelerators": {"": 1}}, "report.costs.accelerators"),
        ({"currency": "EUR", "price": 1}, "report.costs.price"),
    ],
)
def test_bad_prices_are_refused_by_their_key(given: dict[str, Any], said: str, small_config: SmallConfig) -> None:
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        small_config(report={"costs": given})


def test_the_report_shows_what_lists_cost_once_they_are_written(trained: tuple[Config, str]) -> None:
    config, root = trained
    priced = changed(config, "report", costs={"currency": "EUR", "machine": 2})
    evaluate(priced, root)
    path = Path(root, "evaluation/report.html")
    assert "<td>recommend</td>" not in path.read_text().replace(' class="name"', "")
    recommend(changed(priced, "recommend", fav={"k": 3}), root)
    table = costs.collect(priced, root)
    assert table is not None
    assert "recommend" in [row[0] for row in table.rows]
    for cell in next(row for row in table.rows if row[0] == "recommend"):
        assert f">{cell}<" in path.read_text()
