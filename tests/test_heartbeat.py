"""Processes that watch the heartbeat of another, which is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import ROOT
from twhin_core import heartbeat, storage
from twhin_core.errors import StorageError

FOLLOWER = """
import sys, time
from twhin_core import heartbeat
heartbeat.BEAT_S = 0.1
with heartbeat.beating(sys.argv[1]):
    print("beats", flush=True)
    time.sleep(100)
"""
MACHINE = """
import signal, sys, time
from twhin_core import heartbeat
heartbeat.GRACE_S = 0.5
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: None)
heartbeat.end_if_abandoned(sys.argv[1])
print("watches", flush=True)
for _ in range(1000):
    time.sleep(0.1)
"""


def start(script: str, root: str, *arguments: str, silence: float = 2.0) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), heartbeat.ABANDONED_AFTER: str(silence)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, root, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_machines_go_on_while_the_task_lives_and_end_after_it_was_killed(root: str) -> None:
    follower = start(FOLLOWER, root)
    machines = [start(MACHINE, root), start(MACHINE, root, "deaf")]
    try:
        time.sleep(4)  # twice the silence that would end them
        assert [machine.poll() for machine in machines] == [None, None]
        follower.kill()
        assert machines[0].wait(30) == -signal.SIGTERM
        assert machines[1].wait(30) == 75  # it did not heed SIGTERM
    finally:
        end(follower, *machines)


def test_a_task_that_never_lived_counts_as_dead_and_another_takes_its_place(root: str) -> None:
    first, second = start(FOLLOWER, root), start(FOLLOWER, root)
    machine = start(MACHINE, root)
    try:
        first.kill()
        time.sleep(3)
        assert machine.poll() is None  # a retry of the task beats in its place
        second.kill()
        assert machine.wait(30) == -signal.SIGTERM
        assert start(MACHINE, f"{root}/elsewhere").wait(30) == -signal.SIGTERM
    finally:
        end(first, second, machine)


def test_an_outage_of_the_store_is_no_silence(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the task from being heard, whether it lives or not."""
    began, ended = time.monotonic(), list[float]()

    def read(_: str) -> str:
        if time.monotonic() - began < 1:
            raise StorageError("unreachable")
        return "the same"

    monkeypatch.setattr(storage, "read_text", read)
    monkeypatch.setattr(heartbeat, "GRACE_S", 0)
    monkeypatch.setattr(os, "kill", lambda *_: ended.append(time.monotonic() - began))
    monkeypatch.setattr(os, "_exit", lambda _: None)
    heartbeat._watch("gs://bucket/run/.leases/follower", 0.3)
    assert 1.3 <= ended[0] < 3


def test_without_the_variable_nobody_watches(root: str) -> None:
    heartbeat.end_if_abandoned(root, {})


def test_a_heartbeat_that_cannot_be_written_stops_nothing(
    root: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = list[str]()

    def write(_: str, text: str) -> None:
        written.append(text)
        if len(written) < 3:
            raise StorageError("unreachable")

    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    monkeypatch.setattr(storage, "write_text", write)
    with heartbeat.beating(root):
        _wait_until(lambda: len(written) > 4)
    assert len(set(written)) == len(written)
    assert caplog.text.count("could not be written") == 2


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "run")
