"""A rank ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_line import ROOT

LAUNCHER = """
import multiprocessing, os, signal, sys, time
from twhin_core.distributed.parent import end_with_parent

def rank(path, ignored):
    for name in ignored:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    end_with_parent()
    with open(path, "w") as file:
        file.write(f"{os.getpid()}")
    time.sleep(100)

if __name__ == "__main__":
    path, ignored, end = sys.argv[1], sys.argv[2].split(), sys.argv[3]
    process = multiprocessing.get_context("spawn").Process(target=rank, args=(path, ignored))
    process.start()
    while not os.path.exists(path):
        time.sleep(0.01)
    time.sleep(0.05)
    if end == "exit":
        os._exit(0)
    os.kill(os.getpid(), getattr(signal, end))
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("ignored", ["", "SIGTERM SIGINT"])
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "exit"])
def test_a_rank_ends_with_its_launcher_however_that_ends(end: str, ignored: str, tmp_path: Path) -> None:
    script, path = tmp_path / "launcher.py", tmp_path / "pid"
    script.write_text(LAUNCHER)
    subprocess.run(
        [sys.executable, str(script), str(path), ignored, end],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pid, deadline = int(path.read_text()), time.monotonic() + 10
    while is_alive(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("it lives on")
        time.sleep(0.01)
