"""Every stage as another user on a read-only root file system, as the nodes of a TrainJob run."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.command_line import COMMAND, ROOT

STAGES = ("prepare", "launch train", "evaluate", "export")
SMALL = ("--set", "prepare.generate.users=400", "--set", "training.num_epochs=1")
USER = "setpriv --reuid 4000 --regid 4000 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
"""Not root; it may read everything, since the interpreter of a test may be in the home of another."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def confined(writable: tuple[Path, ...], command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that can write to no other folders than these, and to devices."""
    binds = [f"mount --bind {folder} {folder}" for folder in writable]
    # Further mounts of this machine, such as a disk of its own for this repository, are made read-only too.
    lock = "awk '{print $2}' /proc/mounts | grep -vE '^/(proc|sys|dev)' | while read at; do"
    folders = " ".join(f"-e {folder}" for folder in writable)
    locks = f'{lock} echo "$at" | grep -qxF {folders} || mount -o remount,bind,ro "$at" || exit 1; done'
    script = " && ".join(["mount --make-rprivate /", *binds, locks, f"exec {USER} {command}"])
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **variables}, capture_output=True, text=True,
    )  # fmt: skip


def test_every_stage_writes_to_the_run_root_and_to_tmp_alone(tmp_path: Path) -> None:
    run, scratch, elsewhere = tmp_path / "run", tmp_path / "scratch", tmp_path / "elsewhere"
    for folder in (run, scratch, elsewhere):
        folder.mkdir()
        folder.chmod(0o777)
    tried = confined((run,), f"touch {run}/a")
    if tried.returncode:
        pytest.skip(f"no mounts of its own for a process here: {tried.stderr}")
    refused = confined((run,), f"touch {elsewhere}/a")
    assert "Read-only file system" in refused.stderr  # else the test would say nothing
    (run / "a").unlink()
    for stage in STAGES:
        command = [*map(str, COMMAND), *stage.split(), "configs/quickstart.yaml", "--run-root", str(run), *SMALL]
        ran = confined((run, scratch), shlex.join(command), TMPDIR=str(scratch), HOME=str(scratch))
        assert ran.returncode == 0, ran.stderr
        assert "Read-only" not in ran.stderr
    assert (run / "embeddings/manifest.json").exists()
