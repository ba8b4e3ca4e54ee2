"""Stages with a tracker that keeps all in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tracking.test_session import Kept
from twhin_core.config import Config
from twhin_core.errors import Preempted
from twhin_core.stages import track
from twhin_core.stages.evaluate import evaluate
from twhin_core.tracking.tracker import FAILED, FINISHED, STOPPED


@pytest.fixture
def kept(trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch) -> Kept:
    """For what comes after `trained`."""
    tracker = Kept()
    monkeypatch.setattr(track, "open_trackers", lambda *_: [tracker])
    return tracker


@pytest.mark.parametrize(
    ("error", "how"), [(None, FINISHED), (Preempted("SIGTERM"), STOPPED), (RuntimeError("a bug"), FAILED)]
)
def test_a_tracker_learns_how_a_stage_ended(
    kept: Kept, trained: tuple[Config, str], error: Exception | None, how: str
) -> None:
    def work() -> None:
        with track.tracking(*trained):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error), match=str(error)):
            work()
    assert kept.ends == [how]


def test_damaged_results_are_not_sent_and_do_not_end_a_stage(
    kept: Kept, trained: tuple[Config, str], caplog: pytest.LogCaptureFixture
) -> None:
    config, root = trained
    evaluate(config, root)
    path = Path(root, "evaluation/metrics.json")
    path.write_text(path.read_text().replace("mrr", "mmr"))
    kept.figures.clear()
    with track.tracking(config, root):
        pass
    assert "tracking: results are not sent" in caplog.text
    assert kept.ends == [FINISHED, FINISHED]
    assert kept.figures == []


@pytest.mark.parametrize(
    ("root", "title"),
    [
        ("runs/my", "my"),
        ("gs://bucket/runs/my/", "my"),
        ("/models/clicks/versions/3", "clicks/versions/3"),
        ("versions/3", "versions/3"),
        ("my", "my"),
    ],
)
def test_a_run_is_named_after_its_root(root: str, title: str) -> None:
    assert track._title(root) == title


@pytest.mark.parametrize(
    ("tree", "leaves"),
    [
        ({"a": {"b": 1}}, {"a.b": 1}),
        ({"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": []}, {"a": []}),
        ({"a": {}}, {"a": {}}),
        ({"a": None}, {"a": None}),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a.0.b": 1, "a.1.b": 2}),
        ({"a": {"b.c": {"d": True}}}, {"a.b.c.d": True}),
    ],
)
def test_a_config_is_flattened(tree: dict[str, Any], leaves: dict[str, Any]) -> None:
    assert dict(track._leaves(tree, ())) == leaves
