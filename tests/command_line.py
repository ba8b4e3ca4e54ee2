"""Runs `twhin` as a user does: a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from twhin.pipelines.cli import main; main()"]


def twhin(*arguments: str | Path, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Runs it in the repository's root; `variables` are set in its environment, or removed where None."""
    changed = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **variables}
    environment = {name: value for name, value in changed.items() if value is not None}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=280, cwd=ROOT, env=environment
    )


def terminate_training(command: str, config: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Starts `twhin run` or `twhin train`, sends it SIGTERM once it trains, and gives how it ended."""
    process = subprocess.Popen(
        [*COMMAND, command, str(config), "--run-root", str(root)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(root.glob("training/events*")):  # there since the first line is logged
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, "", errors)


def assert_refused(ran: subprocess.CompletedProcess[str], *fragments: str, exit_code: int = 2) -> None:
    """The process ended with `exit_code` and one line on stderr, which holds every fragment."""
    assert ran.returncode == exit_code, ran.stderr
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ran.stderr
    assert ran.stderr.splitlines()[-1] == errors[0]
    assert "Traceback" not in ran.stderr + ran.stdout
    for fragment in fragments:
        assert fragment in errors[0]
