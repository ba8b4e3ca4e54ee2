"""A tracker gets every figure once, whatever fails on the way and however often a run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.errors import Unreachable
from twhin_core.tracking.sent import read_sent
from twhin_core.tracking.session import NOTHING, About, Results, Session
from twhin_core.tracking.stream import Stream
from twhin_core.tracking.tracker import FAILED, FINISHED, Gone, Point, Refused


class Kept:
    """A tracker in memory, which fails when told to."""

    name = "kept"
    place = "here"

    def __init__(self) -> None:
        self.runs: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.parameters: list[tuple[dict[str, str], dict[str, str]]] = []
        self.figures: list[tuple[int, dict[str, float]]] = []
        self.files: list[tuple[str, str]] = []
        self.ends: list[str] = []
        self.failures = 0
        self.refuses = False
        self._run = ""

    def create(self, title: str, tags: Mapping[str, str]) -> str:
        self._answer()
        self._run = f"run-{len(self.runs)}"
        self.runs[self._run] = []
        return self._run

    def resume(self, run: str) -> None:
        self._answer()
        if run not in self.runs:
            raise Gone(run)
        self._run = run

    def set_parameters(self, new: Mapping[str, str], changed: Mapping[str, str]) -> None:
        self._answer()
        self.parameters.append((dict(new), dict(changed)))

    def add_points(self, points: Sequence[Point]) -> None:
        self._answer()
        self.runs[self._run] += [(point.step, dict(point.figures)) for point in points]

    def set_figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._answer()
        self.figures.append((step, dict(figures)))

    def add_file(self, path: Path) -> None:
        self._answer()
        self.files.append((path.name, path.read_text()))

    def end(self, how: str) -> None:
        self._answer()
        self.ends.append(how)

    def _answer(self) -> None:
        if self.refuses:
            raise Refused("tracking.kept: wrong")
        if self.failures:
            self.failures -= 1
            raise Unreachable("no answer")


def session(tracker: Kept, root: Path, parameters: Mapping[str, str] | None = None) -> Session:
    return Session(tracker, str(root), About("run", {}, parameters or {}))


ACTS = st.lists(st.sampled_from(["step", "figure", "send", "fail", "stage", "killed"]), max_size=40)


@given(ACTS)
@settings(max_examples=60)
def test_every_point_arrives_once_and_in_order(tmp_path_factory: pytest.TempPathFactory, acts: list[str]) -> None:
    root, tracker = tmp_path_factory.mktemp("root"), Kept()
    file: list[Point] = []  # as `training/metrics.jsonl`
    now = session(tracker, root)
    now.start([])
    step = 1
    for number, act in enumerate(acts):
        step += act == "step"
        if act in ("step", "figure"):
            figures = {"loss": float(number)}
            file.append(Point(step, 0.0, figures))
            now.add(step, figures)
        elif act == "send":
            now.send()
        elif act == "fail":
            tracker.failures += 1
        else:
            if act == "stage":
                now.finish(NOTHING, FAILED)
                step += 1  # the next stage begins after the last step that was logged
            now = session(tracker, root)
            now.start(file)
            step += act == "killed"
    tracker.failures = 0
    now.finish(NOTHING, FINISHED)
    assert list(tracker.runs.values())[-1:] == [[(point.step, point.figures) for point in file]] or not file
    assert len(tracker.runs) == 1


def test_an_unreachable_tracker_costs_one_warning_and_misses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Kept()
    tracker.failures = 4
    first = session(tracker, tmp_path, {"a": "1"})
    first.start([Point(1, 0.0, {"loss": 3.0})])
    assert [first.send() for _ in range(2)] == [False, False]
    first.finish(NOTHING, FINISHED)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["tracking.kept: not up to date: no answer; later attempts send what is missing"]
    assert tracker.runs == {}
    second = session(tracker, tmp_path, {"a": "1"})
    second.start([Point(1, 0.0, {"loss": 3.0})])
    second.finish(NOTHING, FINISHED)
    assert tracker.runs == {"run-0": [(1, {"loss": 3.0})]}
    assert tracker.parameters == [({"a": "1"}, {})]
    assert tracker.ends == [FINISHED]


def test_a_refusal_is_an_error_before_work_and_a_warning_after_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Kept()
    begun = session(tracker, tmp_path)
    begun.start([])
    tracker.refuses = True
    begun.finish(NOTHING, FINISHED)
    assert "tracking.kept: not up to date" in caplog.text
    with pytest.raises(Refused, match=r"tracking\.kept: wrong"):
        session(tracker, tmp_path).start([])


def test_parameters_are_sent_once_and_then_only_what_changed(tmp_path: Path) -> None:
    tracker = Kept()
    for parameters in (
        {"a": "1", "b": "2"},
        {"a": "1", "b": "2"},
        {"a": "3", "b": "2", "c": "4"},
        {"a": "1", "b": "2"},
    ):
        session(tracker, tmp_path, parameters).start([])
    assert tracker.parameters == [({"a": "1", "b": "2"}, {}), ({"c": "4"}, {"a": "3"}), ({}, {"a": "1"})]


def test_results_are_sent_when_they_changed(tmp_path: Path) -> None:
    tracker, report = Kept(), tmp_path / "report.html"
    report.write_text("first")
    for text, figures in (("first", {}), ("first", {"mrr": 0.1}), ("second", {"mrr": 0.1}), ("second", {"mrr": 0.2})):
        report.write_text(text)
        now = session(tracker, tmp_path)
        now.start([])
        now.finish(Results(5, figures, {"page.html": str(report)}), FINISHED)
    assert tracker.files == [("page.html", "first"), ("page.html", "second")]
    assert tracker.figures == [(5, {"mrr": 0.1}), (5, {"mrr": 0.2})]


def test_a_run_that_was_deleted_or_tracked_elsewhere_is_tracked_anew(tmp_path: Path) -> None:
    tracker, points = Kept(), [Point(1, 0.0, {"loss": 1.0}), Point(2, 0.0, {"loss": 0.5})]
    for change in ("", "deleted", "elsewhere"):
        if change == "deleted":
            tracker.runs.clear()
        if change == "elsewhere":
            tracker.place = "there"
        now = session(tracker, tmp_path)
        now.start(points)
        now.finish(NOTHING, FINISHED)
    assert list(tracker.runs.values()) == [[(1, {"loss": 1.0}), (2, {"loss": 0.5})]] * 2
    sent = read_sent(str(tmp_path), "kept")
    assert sent is not None
    assert (sent.place, sent.step) == ("there", 2)


def test_a_damaged_record_means_a_new_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Kept()
    session(tracker, tmp_path).start([])
    (tmp_path / "tracking/kept.json").write_text("{")
    session(tracker, tmp_path).start([])
    assert list(tracker.runs) == ["run-0", "run-1"]
    assert "tracked anew" in caplog.text


def test_a_stream_sends_while_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from twhin_core.tracking import stream as streams

    monkeypatch.setattr(streams, "PAUSE", 0.01)
    tracker = Kept()
    now = session(tracker, tmp_path)
    now.start([])
    stream = Stream([now])
    stream.add(1, {"loss": 3.0})
    stream.add(2, {"loss": 2.0})
    deadline = time.monotonic() + 10
    while not tracker.runs["run-0"] and time.monotonic() < deadline:
        time.sleep(0.01)
    stream.close()
    assert tracker.runs["run-0"] == [(1, {"loss": 3.0})]  # the newest step may not have all its figures yet
