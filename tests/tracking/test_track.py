"""Stages with a tracker that keeps all in memory."""

from __future__ import annotations

import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import twhin
from tests.conftest import SmallConfig
from tests.export.exporting import changed
from tests.tracking.test_session import Kept
from twhin_core import lease
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import Preempted
from twhin_core.evaluation.result import read_metrics
from twhin_core.stages import follow as following
from twhin_core.stages import track
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.recommend import recommend
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


@pytest.mark.parametrize("how", [FINISHED, STOPPED])
def test_what_a_sweep_measured_goes_to_the_run_of_the_trial(kept: Kept, trained: tuple[Config, str], how: str) -> None:
    figures = {"validation.all.recall@20": 0.25}
    for _ in range(2):  # as after a kill
        track.track_trial(*trained, 8, figures, how)
    assert kept.figures == [(8, figures)]
    assert kept.ends == [how, how]
    assert not Path(trained[1], "evaluation/validation").exists()


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
        ("sweeps/first/trials/12", "first/trials/12"),
        ("gs://bucket/sweep/trials/sweep-abcd", "sweep/trials/sweep-abcd"),
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


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_tracker_that_hangs_costs_one_warning_and_a_bounded_time(
    kept: Kept, trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    fails_first: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(track, "LONGEST_END", 0.2)
    kept.failures = int(fails_first)  # the first contact
    answers = threading.Event()
    began = time.monotonic()
    with track.tracking(*trained):
        monkeypatch.setattr(kept, "end", lambda _: answers.wait())
    took = time.monotonic() - began
    answers.set()
    assert 0.2 <= took < 5
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("tracking.kept: not up to date: ")


@pytest.mark.parametrize("answers", [False, True], ids=["nobody listens", "nobody answers"])
def test_a_server_that_is_not_there_costs_one_warning_per_stage(
    small_config: SmallConfig, tmp_path: Path, answers: bool
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        path, url = tmp_path / "config.yaml", f"http://127.0.0.1:{server.getsockname()[1]}"
        config = small_config(tracking={"mlflow": url, "prometheus": {"pushgateway": url}})
        path.write_text(config_file.to_yaml(config))
        ran = twhin("prepare", path, "--run-root", tmp_path / "run", MLFLOW_HTTP_REQUEST_TIMEOUT="1")
    assert ran.returncode == 0, ran.stderr
    assert [line for line in ran.stderr.splitlines() if "127.0.0.1" in line] == [
        line for line in ran.stderr.splitlines() if "tracking.mlflow: not up to date: " in line
    ]
    assert ran.stderr.count("not up to date") == 1


def test_following_and_recommending_bring_a_tracker_up_to_date(
    kept: Kept, trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    monkeypatch.setattr(following, "open_trackers", lambda *_: [kept])
    began = time.monotonic()
    with ThreadPoolExecutor() as pool, lease.hold(root, "train"):
        done = pool.submit(following.follow, config, root)
        while read_metrics(root) is None or not Path(root, "evaluation/report.html").exists():
            assert time.monotonic() - began < 60
            time.sleep(0.05)
        time.sleep(0.2)
        assert kept.ends == []  # training still speaks
        monkeypatch.setattr(track, "LOOK", 0.01)
    done.result()
    assert kept.ends == [FINISHED]
    metrics = read_metrics(root)
    assert metrics is not None
    ((step, figures),) = kept.figures
    assert step == metrics["checkpoint"]
    assert figures["test.all.mrr"] == metrics["test"]["all"]["mrr"]
    recommend(changed(config, "recommend", fav={"k": 3}), root)
    assert kept.ends == [FINISHED, FINISHED]
    names = {name for name, _ in kept.files}
    assert {"lists-fav.json", "metrics.json", "report.html"} <= names
