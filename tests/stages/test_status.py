"""`twhin status`: what leases, records and results say together, without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.export.exporting import changed
from tests.object_store import reach, serve_bucket
from tests.test_lease import start_holder
from twhin_core import activity, lease, progress, storage
from twhin_core.checkpoints.checkpoint import at_step, remove
from twhin_core.config import Config
from twhin_core.errors import Preempted, UserError
from twhin_core.progress import Progress, waiting
from twhin_core.run import working
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.recommend import recommend
from twhin_core.stages.show_status import list_status
from twhin_core.stages.status import StageStatus, read_status
from twhin_core.stages.train import train
from twhin_core.tracking.sent import Sent, write_sent

Trained = tuple[Config, str]


def status_of(root: str, stage: str) -> StageStatus:
    (run,) = read_status(root)
    (found,) = [of for of in run.stages if of.stage == stage]
    return found


def states(root: str) -> dict[str, str]:
    (run,) = read_status(root)
    return {of.stage: of.state for of in run.stages}


def row(root: str, stage: str) -> dict[str, Any]:
    stages, *_ = list_status(read_status(root), root)
    (cells,) = [cells for cells in stages.rows if cells[1] == stage]
    return {name: cell for column, cell in zip(stages.columns, cells, strict=True) for name in column.names}


def holder(machine: str = "another", pid: str = "1", started: str = "7") -> str:
    return json.dumps({"host": "elsewhere", "pid": pid, "started": started, "machine": machine})


def record(ended: str | None, seconds_ago: float, waits: bool = False, error: str | None = None) -> dict[str, Any]:
    figures = {
        "work": "for rain" if waits else "train", "waits": waits, "done": 30, "total": 120, "unit": "edges",
        "per_s": 6.0, "left_s": 15.0, "step": 3, "steps": 12,
    }  # fmt: skip
    return {"seconds_ago": seconds_ago, "ended": ended, "error": error, "figures": figures}


def written_now(noted: dict[str, Any]) -> dict[str, Any]:
    """The tests may run long after the cases below were made."""
    when = (datetime.now(UTC) - timedelta(seconds=noted["seconds_ago"])).isoformat()
    return {"since": when, "at": when, **{key: noted[key] for key in ("ended", "error", "figures")}}


HERE = lease._identity()
DEAD = holder(HERE["machine"], str(2**22 + 1))
ALIVE = holder(HERE["machine"], HERE["pid"], HERE["started"])
ELSEWHERE = holder()
RECENT, OLD = 20.0, lease.EXPIRY + 20.0
# What train's lease and its record hold, whether training had finished, and the state and the note by hand.
CASES: dict[str, tuple[str, dict[str, Any] | None, bool, str, str | None]] = {
    "nothing was noted": ("", None, True, "done", None),
    "nothing was noted of what is unfinished": ("", None, False, "stopped", None),
    "it works here": (ALIVE, record(None, RECENT), False, "running", None),
    "it works here, and noted nothing yet": (ALIVE, None, False, "running", None),
    "it works here, and could not note it for long": (ALIVE, record(None, OLD), False, "running", None),
    "it works elsewhere": (ELSEWHERE, record(None, RECENT), False, "running", None),
    "it waits elsewhere": (ELSEWHERE, record(None, RECENT, waits=True), False, "waiting", "for rain"),
    "it trains on": (ELSEWHERE, record(None, RECENT), True, "running", None),
    "it is silent elsewhere": (ELSEWHERE, record(None, OLD), False, "stale lease", "has said nothing for minutes"),
    "it never spoke elsewhere": (ELSEWHERE, None, False, "stale lease", "has said nothing for minutes"),
    "only its last call spoke": (ELSEWHERE, record("done", RECENT), False, "stale lease", "has said nothing"),
    "it is dead": (DEAD, record(None, RECENT), False, "stale lease", "its process is gone"),
    "it died after its work": (DEAD, record(None, RECENT), True, "done", "its process is gone"),
    "its lease is damaged": ("{", None, False, "stale lease", "has said nothing"),
    "it was stopped": ("", record("stopped", OLD, error="SIGTERM"), False, "stopped", "SIGTERM"),
    "it failed": ("", record("failed", OLD, error="no edges"), False, "failed", "no edges"),
    "it failed after it was done": ("", record("failed", OLD, error="no edges"), True, "done", "no edges"),
    "it ended well": ("", record("done", OLD), True, "done", None),
    "its result was removed": ("", record("done", OLD), False, "stopped", None),
    "it could not note its end": ("", record(None, OLD), False, "stopped", None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_state_of_a_stage_follows_from_its_lease_its_record_and_its_result(case: str, trained: Trained) -> None:
    text, noted, is_finished, state, note = CASES[case]
    _, root = trained
    storage.write_text(f"{root}/.leases/train", text)
    storage.remove(f"{root}/.leases/train.activity")
    if noted is not None:
        noted = written_now(noted)
        storage.write_json(f"{root}/.leases/train.activity", noted)
    if not is_finished:
        storage.remove(f"{root}/training/finished.json")
    found = status_of(root, "train")
    assert found.state == state
    assert (found.note is None) == (note is None)
    assert note is None or note in str(found.note)
    works = noted is not None and noted["ended"] is None and state in ("running", "waiting")
    assert found.step == (3 if works else 16)
    shown = row(root, "train")
    if state == "running" and noted is not None:
        assert (shown["of"], shown["done"], shown["per_s"], shown["unit"]) == (12, 0.25, 6.0, "edges")
        assert shown["left_s"] == pytest.approx(max(15.0 - age_of(noted), 0.0), abs=1.5)


def age_of(noted: dict[str, Any]) -> float:
    return activity.age(noted["at"])


def test_a_run_is_followed_from_its_first_stage_to_its_last(trained: Trained) -> None:
    config, root = trained
    assert states(root) == {"prepare": "done", "train": "done", "evaluate": "not started", "export": "not started"}
    evaluate(config, root)
    with pytest.raises(UserError):
        export(changed(config, "export", tables=["nobody"]), root)
    assert states(root)["evaluate"] == "done"
    export(config, root)
    lists = changed(config, "recommend", fav={"k": 3})
    recommend(lists, root)
    assert set(states(root).values()) == {"done"}
    assert [status_of(root, stage).step for stage in ("train", "evaluate", "export", "recommend")] == [16] * 4
    train(changed(lists, "training", num_epochs=3), root)
    assert status_of(root, "train").step == 24
    assert {stage for stage, state in states(root).items() if state == "outdated"} == {
        "evaluate",
        "export",
        "recommend",
    }


def test_a_stage_notes_how_far_it_is_and_how_it_ended(small_config: SmallConfig, tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    ends: list[tuple[BaseException | None, str, str | None]] = [
        (None, "done", None),
        (UserError("row 7: no id\nand more"), "failed", "row 7: no id"),
        (Preempted("SIGTERM: stopped"), "stopped", "SIGTERM: stopped"),
        (ValueError("a bug"), "failed", "a bug"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
    ]
    for error, ended, line in ends:
        expected = contextlib.nullcontext() if error is None else pytest.raises(type(error))
        in_progress = Progress("train", 90, "edges", done=30, steps=9)
        with expected, working(small_config(), root, "train"), in_progress as shown:
            shown.update(15, step=5)
            noted = activity.read_activity(root, "train")
            assert noted is not None
            activity._write(root, "train", noted)
            assert (noted["ended"], noted["error"]) == (None, None)
            figures = noted["figures"]
            assert (figures["done"], figures["total"], figures["step"], figures["steps"]) == (45, 90, 5, 9)
            if error is not None:
                raise error
        found = activity.read_activity(root, "train")
        assert found is not None
        assert (found["ended"], found["error"]) == (ended, line)
    assert progress.figures()["done"] is None


def test_what_a_process_waits_for_is_noted() -> None:
    with Progress("train", 90, "edges") as shown, waiting("for readers"):
        shown.update(1)
        assert (progress.figures()["work"], progress.figures()["waits"]) == ("for readers", True)
    with Progress("train", 90, "edges"):
        assert (progress.figures()["work"], progress.figures()["waits"]) == ("train", False)


def test_a_removed_folder_does_not_come_back(small_config: SmallConfig, tmp_path: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(UserError, match="stop"), activity.noted(str(root), "train"):
        raise UserError("stop")
    assert not root.exists()


def test_the_steps_and_the_time_left_are_those_of_the_end_that_comes_first(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 steps an epoch; 12 steps end the second half-way."""
    seen: list[tuple[int | None, int | None, int]] = []
    update = Progress.update

    def updating(self: Progress, count: int, **figures: float) -> None:
        update(self, count, **figures)
        if self.figures()["steps"] is not None:
            seen.append((self.figures()["step"], self.figures()["steps"], self._total))

    monkeypatch.setattr(Progress, "update", updating)
    from twhin_core.graph.manifest import find_manifest
    from twhin_core.stages.prepare import prepare

    config, root = small_config(training={"num_train_steps": 12, "num_epochs": 5}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    edges = find_manifest(root).splits["train"].edges
    assert [(step, steps) for step, steps, _ in seen] == [(step, 12) for step in range(1, 13)]
    assert seen[0][2] == pytest.approx(1.5 * edges, rel=0.05)


@pytest.fixture(params=["local", "gs"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "place")
        return
    with serve_bucket() as server:
        yield f"{reach(server, monkeypatch)}/place"


def copied(source: str, target: str) -> None:
    for path in Path(source).rglob("*"):
        if path.is_file():
            with storage.open_write(storage.join(target, str(path.relative_to(source)))) as file:
                file.write(path.read_bytes())


def everything(root: str) -> dict[str, bytes]:
    fs, path = storage.filesystem(root)
    return {name: fs.cat_file(name) for name in fs.find(path)}


def test_status_reads_a_run_at_work_and_leaves_no_trace(place: str, trained: Trained) -> None:
    copied(trained[1], place)
    process = start_holder(place)
    try:
        before = everything(place)
        (run,) = read_status(place)
        assert everything(place) == before
    finally:
        process.kill()
        process.join()
    at_work = next(of for of in run.stages if of.stage == "train")
    assert (at_work.state, at_work.holder) == ("running", f"process {process.pid} on {HERE['host']}")
    assert run.checkpoint is not None
    assert run.written is not None
    assert run.checkpoint.step == 16
    assert abs((datetime.now(UTC) - run.written).total_seconds()) < 300
    storage.remove(f"{place}/training/finished.json")
    assert status_of(place, "train").state == "stale lease"
    with lease.hold(place, "train", grace=0):
        pass  # it was not in the way


def test_status_takes_no_lock(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a moment: `twhin run` and `--follow` would be refused."""
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("a lock was taken"))
    assert states(trained[1])["train"] == "done"


def test_a_series_shows_every_version_and_its_own_leases(trained: Trained, tmp_path: Path) -> None:
    _, root = trained
    series = tmp_path / "series"
    for version in ("1", "2", "10"):
        shutil.copytree(root, series / "versions" / version)
    storage.write_json(str(series / "versions/1/removed.json"), {"when": "2026-01-01", "version": {}})
    shutil.rmtree(series / "versions/10/checkpoints")
    with lease.hold(str(series), "plan"):
        stages, leases, checkpoints = list_status(read_status(str(series)), str(series))
    assert {str(cells[0]) for cells in stages.rows} == {"series", "versions/2", "versions/10"}
    assert [cells[:2] for cells in leases.rows] == [["series", "plan"]]
    assert [cells[:2] for cells in checkpoints.rows] == [["versions/2", 16]]


def test_the_command_prints_tables_json_and_refuses_what_is_no_run(trained: Trained, tmp_path: Path) -> None:
    _, root = trained
    (newest,) = (of for of in [at_step(root, 16)] if of is not None)
    remove(newest)
    found = json.loads(twhin("status", root, "--json").stdout)
    assert list(found) == ["stages", "leases", "checkpoints"]
    assert [of["stage"] for of in found["stages"]] == ["prepare", "train", "evaluate", "export"]
    assert found["leases"] == []
    assert found["checkpoints"][0]["step"] == 15
    assert_refused(twhin("status", tmp_path / "nothing"), "nothing: there is no run here (config.yaml)")


def test_a_run_that_just_began_and_a_step_that_waits_for_its_turn(trained: Trained) -> None:
    _, root = trained

    with lease.hold(root, "run", grace=0):
        assert states(root)["evaluate"] == "waiting"
        assert states(root)["run"] == "running"
        assert os.getpid() == int(str(status_of(root, "run").holder).split()[1])


@pytest.mark.parametrize("trackers", [(), ("mlflow",), ("wandb",), ("mlflow", "wandb")])
def test_a_tracked_run_shows_where_and_to_which_step(trained: Trained, trackers: tuple[str, ...]) -> None:
    _, root = trained
    for number, tracker in enumerate(trackers):
        write_sent(root, tracker, Sent(place=f"http://{tracker}", run=f"r{number}", step=10 + number))
    before = everything(root)
    listings = list_status(read_status(root), root)
    assert everything(root) == before
    tables = {listing.name: listing.rows for listing in listings}
    expected = [
        ["run", tracker, f"http://{tracker}", f"r{number}", 10 + number] for number, tracker in enumerate(trackers)
    ]
    assert tables.get("tracked", []) == expected
    assert ("tracked" in tables) == bool(trackers)
