"""What training says of itself: lines, TensorBoard's events, speed and memory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import SmallConfig
from twhin_core.checkpoints import checkpoint
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.metrics_log import Interval, MetricsLog


def scalars(root: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a run."""
    events = EventAccumulator(str(root / "training"))
    events.Reload()
    return {tag: {entry.step: entry.value for entry in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_lines(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(training={"eval_log_every_n": 4}), tmp_path / "run"
    prepare(config, str(root))
    train(config, str(root))
    lines = [json.loads(line) for line in (root / "training/metrics.jsonl").read_text().splitlines()]
    shown = scalars(root)
    assert set(shown) == {"epoch", "loss", "edges_per_s", "data_wait", "validation_loss"}
    for tag in ("loss", "data_wait", "validation_loss"):
        logged = {line["step"]: line[tag] for line in lines if tag in line}
        assert shown[tag] == pytest.approx(logged)
    assert all(0 <= share <= 1 for share in shown["data_wait"].values())


def test_a_run_that_went_on_shows_each_step_once(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(), tmp_path / "run"
    prepare(config, str(root))
    train(config, str(root))
    newest = checkpoint.newest(str(root))
    assert newest is not None
    checkpoint.remove(newest)
    time.sleep(1.1)  # TensorBoard orders files by the second in their names
    train(config, str(root))
    assert len(list((root / "training").glob("events*"))) == 2
    steps = [json.loads(line)["step"] for line in (root / "training/metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, newest.step + 1))
    events = EventAccumulator(str(root / "training"), purge_orphaned_data=True)
    events.Reload()
    assert [entry.step for entry in events.Scalars("loss")] == list(range(1, newest.step + 1))


def test_another_rank_writes_nothing(tmp_path: Path) -> None:
    with MetricsLog(str(tmp_path), 0, Ranks(1, 2, torch.device("cpu"))) as log:
        log.add(1, 0, loss=0.5)
        assert list(log.past("loss")) == [(1, 0.5)]
    assert not list(tmp_path.iterdir())


def test_waiting_for_data_is_counted_and_learning_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("twhin_core.training.metrics_log.time", SimpleNamespace(monotonic=lambda: now))

    def slow_reader() -> Iterator[int]:
        nonlocal now
        for batch in range(2):
            now += 3.0
            yield batch

    with process_group() as ranks:
        interval = Interval(ranks)
        for _ in interval.waiting(slow_reader()):
            now += 1.0
            interval.add(torch.tensor(0.5), 20)
        assert interval.close() == {"loss": 0.5, "edges_per_s": 5.0, "data_wait": 0.75}
        now += 2.0
        assert interval.speed() == 4.0


def test_the_end_tells_speed_and_peak_memory(
    small_config: SmallConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config()
    prepare(config, str(tmp_path / "run"))
    with caplog.at_level("INFO", "twhin"):
        train(config, str(tmp_path / "run"))
    found = re.search(r"train: ([\d,]+) edges/s, peak ([\d.]+) GiB of main memory", caplog.text)
    assert found is not None, caplog.text
    assert int(found[1].replace(",", "")) > 0
    assert 0.05 < float(found[2]) < 24
