"""What a stage took: of the calls that worked, and over all that train it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from twhin_core import limits, storage
from twhin_core.config import Config
from twhin_core.durations import describe_gpus, describe_memory, in_words, measured, read_durations
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"), (0.04, "0.0 s"), (4.25, "4.2 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (200.4, "3 min 20 s"),
        (3599.4, "59 min 59 s"), (3600, "1 h 0 min"), (3659, "1 h 0 min"), (18_420, "5 h 7 min"),
        (1e6, "277 h 46 min"),
    ],
)  # fmt: skip
def test_seconds_are_read_at_a_glance(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_stage_records_what_it_worked_and_not_what_it_found_done(trained: tuple[Config, str]) -> None:
    config, root = trained
    began = datetime.now(UTC) - timedelta(seconds=1)
    for stage in (evaluate, export):
        stage(config, root)
    before = read_durations(root)
    assert list(before) == ["prepare", "train", "evaluate", "export"]
    assert all(0 < of["seconds"] < 60 and of["cores"] > 0 and of["machine"] for of in before.values())
    assert datetime.fromisoformat(before["export"]["ended"]) >= began.replace(microsecond=0)
    for stage in (prepare, train, evaluate, export):
        stage(config, root)
    assert read_durations(root) == before
    page = Path(root, "evaluation/report.html").read_text()
    assert "<h3>Durations</h3>" in page
    assert in_words(before["train"]["seconds"]) in page


def test_resumed_work_adds_up_even_if_it_was_stopped(tmp_path: Path) -> None:
    root = str(tmp_path)
    with pytest.raises(KeyError), measured(root, "train"):
        _work_and_fail()
    first = read_durations(root)["train"]["seconds"]
    assert first >= 0.05
    with measured(root, "train", time.monotonic() - 10, resumes=True):
        pass
    assert 10 + first <= read_durations(root)["train"]["seconds"] < 11 + first
    with measured(root, "train"):
        pass
    assert read_durations(root)["train"]["seconds"] < 1
    assert set(storage.read_json(f"{root}/durations/train.json")) == {
        "seconds", "machine_seconds", "ended", "machine", "cores", "memory", "gpus",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ([], ""), (["NVIDIA H200"], "NVIDIA H200"), (["NVIDIA H200"] * 8, "8 × NVIDIA H200"),
        (["NVIDIA L4", "NVIDIA H200", "NVIDIA L4"], "2 × NVIDIA L4, NVIDIA H200"),
    ],
)  # fmt: skip
def test_the_machine_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: list[str], words: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpus))
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: gpus[number])
    with measured(str(tmp_path), "train"):
        pass
    found = read_durations(str(tmp_path))["train"]
    assert (found["gpus"], found["memory"], describe_gpus(found)) == (gpus, limits.memory(), words)


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    storage.write_json(f"{tmp_path}/durations/train.json", {"seconds": 1, "ended": "", "machine": "m", "cores": 2})
    found = read_durations(str(tmp_path))["train"]
    assert (describe_memory(found), describe_gpus(found)) == ("", "")


def _work_and_fail() -> None:
    time.sleep(0.05)
    raise KeyError
