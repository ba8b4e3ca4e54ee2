"""Curves of training come of its log and its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core.report.training import Panel, panels


def write_log(root: Path, lines: list[dict[str, Any]]) -> None:
    (root / "training").mkdir()
    (root / "training/metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def by_title(found: list[Panel]) -> dict[str, Panel]:
    return {panel.title: panel for panel in found}


LINES = [
    {"step": 10, "epoch": 0, "loss": 5.0, "edges_per_s": 1000.0, "data_wait": 0.25},
    {"step": 20, "epoch": 0, "loss": 9.0, "edges_per_s": 1.0, "data_wait": 0.9},
    {"step": 20, "epoch": 0, "loss": 3.25, "edges_per_s": 3000.0, "data_wait": 0.75},
    {"step": 20, "epoch": 0, "validation_loss": 4.5},
]


def test_of_a_step_that_was_logged_twice_the_later_line_counts(small_config: SmallConfig, tmp_path: Path) -> None:
    write_log(tmp_path, LINES)
    loss = by_title(panels(small_config(), str(tmp_path)))["Loss"]
    assert loss.legend == [("first", "training", "3.25"), ("second", "validation", "4.5")]
    assert [len(curve.points.split()) for curve in loss.chart.curves] == [2, 1]


def test_throughput_is_drawn_from_zero(small_config: SmallConfig, tmp_path: Path) -> None:
    write_log(tmp_path, LINES)
    throughput = by_title(panels(small_config(), str(tmp_path)))["Throughput"]
    assert throughput.chart.up[0].label == "0"
    assert throughput.note == "Median 2,000 edges/s. 50.0% of the time was spent waiting for data."


def test_a_run_without_a_log_has_no_curves(small_config: SmallConfig, tmp_path: Path) -> None:
    assert panels(small_config(), str(tmp_path)) == []


def test_rates_are_drawn_where_they_change(small_config: SmallConfig, tmp_path: Path) -> None:
    write_log(tmp_path, LINES)
    assert "Learning rate" not in by_title(panels(small_config(), str(tmp_path)))
    ramp = {"linear_ramp_to_constant": {"learning_rate": 0.1, "num_ramp_steps": 10}}
    changing = small_config(model={"translation_optimizer": {"adagrad": {"lr": 0.1}, "learning_rate": ramp}})
    rates = by_title(panels(changing, str(tmp_path)))["Learning rate"]
    assert [label for _, label, _ in rates.legend] == ["user, tweet", "relations"]
    up = {tick.label: tick.at for tick in rates.chart.up}
    heights = [float(point.split(",")[1]) for point in rates.chart.curves[1].points.split()]
    assert len(heights) == 20  # a point a step
    assert heights[4] == pytest.approx((up["0"] + up["0.1"]) / 2, abs=0.1)  # half the rate at half the ramp
    assert heights[9:] == pytest.approx([up["0.1"]] * 11, abs=0.1)


def test_a_rate_that_falls_until_the_end_is_drawn_once_the_end_is_known(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    write_log(tmp_path, LINES)
    cosine = {"linear_ramp_to_cosine": {"learning_rate": 0.1, "final_learning_rate": 0.0, "num_ramp_steps": 1}}
    config = small_config(model={"translation_optimizer": {"adagrad": {"lr": 0.1}, "learning_rate": cosine}})
    assert "Learning rate" not in by_title(panels(config, str(tmp_path)))
    finished = tmp_path / "training/finished.json"
    finished.write_text(json.dumps({"step": 20, "reason": "the validation loss has not fallen since step 10"}))
    assert "Learning rate" not in by_title(panels(config, str(tmp_path)))
    finished.write_text(json.dumps({"step": 20, "reason": "all steps are done"}))
    rates = by_title(panels(config, str(tmp_path)))["Learning rate"]
    assert rates.legend == [("first", "user, tweet", "0.1"), ("second", "relations", "0")]


def test_rankings_of_several_checkpoints_make_a_curve(small_config: SmallConfig, tmp_path: Path) -> None:
    for step, mrr in ((20, 0.5), (10, 0.25)):
        folder = tmp_path / "evaluation" / str(step)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"test": {"all": {"mrr_rhs": mrr, "mrr": 0.7}}}))
    quality = by_title(panels(small_config(), str(tmp_path)))["Ranking by checkpoint"]
    assert quality.legend == [("second", "test mrr_rhs", "0.5")]
    (folder / "metrics.json").write_text(json.dumps({"test": {"all": {"sampled_mrr_rhs": 0.9}}}))
    assert panels(small_config(), str(tmp_path)) == []  # exact and sampled figures are no curve


def test_weights_found_for_a_target_are_drawn_the_largest_first(small_config: SmallConfig, tmp_path: Path) -> None:
    weights = {"a/b": (1.0, 0.2), "low": (0.5, 0.05), "high": (0.5, 0.25), "none": (0.25, 0.0), "mid": (0.5, 0.1)}
    lines = [
        {f"weight/{name}": of[at] for name, of in weights.items()} | {"step": 10 * at, "epoch": 0} for at in (0, 1)
    ]
    write_log(tmp_path, [*LINES, *lines])
    panel = by_title(panels(small_config(model={"target": "fav"}), str(tmp_path)))["Weight beside fav"]
    legend = [("first", "high", "0.25"), ("second", "a/b", "0.2"), ("third", "mid", "0.1"), ("fourth", "low", "0.05")]
    assert panel.legend == legend
    assert panel.note == "1 smaller ones are not shown."
