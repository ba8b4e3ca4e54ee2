"""A report that cannot be drawn: what it would have shown stands, and the next run draws it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import twhin
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import newest, remove
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.evaluation import measure as measuring
from twhin_core.report import write
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.follow import follow

REPORT = "evaluation/report.html"
Trained = tuple[Config, str]


def fail(*_: Any) -> None:
    raise ZeroDivisionError("two\nlines")


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Until `undo`, no report can be drawn."""
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_report", fail)
        yield patch


def test_the_metrics_and_the_decision_stand(
    trained: Trained, no_drawing: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, root = trained
    with caplog.at_level(logging.INFO, "twhin"):
        metrics = evaluate(config, root)
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage().startswith("report: could not be drawn: ZeroDivisionError: two lines;")
    assert not warning.exc_info
    file = Path(root, "evaluation/metrics.json")
    assert storage.read_json(str(file)) == metrics
    assert json.loads(Path(root, "evaluation/gates.json").read_text())["passed"]
    assert not Path(root, REPORT).exists()

    no_drawing.undo()
    no_drawing.setattr(measuring, "measure", fail)
    assert evaluate(config, root) == metrics
    assert Path(root, REPORT).exists()


def test_the_report_of_another_checkpoint_does_not_stay(trained: Trained, no_drawing: pytest.MonkeyPatch) -> None:
    config, root = trained
    no_drawing.undo()
    evaluate(config, root)
    remove(newest(root))
    no_drawing.setattr(write, "write_report", fail)
    assert evaluate(config, root)["checkpoint"] == newest(root).step
    assert not Path(root, REPORT).exists()


def test_what_follows_training_goes_on(trained: Trained, no_drawing: pytest.MonkeyPatch) -> None:
    config, root = trained
    follow(config, root)
    assert json.loads(Path(root, "evaluation/metrics.json").read_text())["checkpoint"] == newest(root).step
    assert not Path(root, REPORT).exists()
    no_drawing.undo()
    follow(config, root)
    assert Path(root, REPORT).exists()


def test_an_export_stands_and_the_next_one_draws_it(trained: Trained, no_drawing: pytest.MonkeyPatch) -> None:
    config, root = trained
    no_drawing.undo()
    evaluate(config, root)
    before = Path(root, REPORT).read_text()
    no_drawing.setattr(write, "write_report", fail)
    manifest = export(config, root)
    assert not Path(root, REPORT).exists(), "it would show nothing of the export"
    no_drawing.undo()
    assert export(config, root) == manifest
    assert Path(root, REPORT).read_text() != before


def test_the_command_ends_as_without(trained: Trained, tmp_path: Path) -> None:
    config, root = trained
    path = tmp_path / "config.yaml"
    path.write_text(config_file.to_yaml(config))
    Path(root, "training/metrics.jsonl").write_text('{"step": 1, "loss": "high"}')
    ran = twhin("evaluate", path, "--run-root", root)
    assert ran.returncode == 0, ran.stderr
    assert sum("could not be drawn: " in line for line in ran.stderr.splitlines()) == 1
    assert "Traceback" not in ran.stderr
    assert "metrics.json" in ran.stdout
    assert "report.html" not in ran.stdout
