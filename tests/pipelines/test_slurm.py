"""The job scripts of docs/slurm.md, run as they stand there with stand-ins for Slurm's own commands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_line import ROOT
from tests.conftest import SmallConfig
from tests.training.same_result import assert_same_result
from twhin_core.checkpoints import checkpoint
from twhin_core.config import file as config_file
from twhin_core.export.manifest import read_export_manifest

SECONDS = 280
SCRIPTS = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs/slurm.md").read_text(), re.DOTALL)

# Starts a task per node, or a single one, as far as the options that the scripts use say; exits as the worst task.
SRUN = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
options = []
while words[0].startswith("--"):
    options.append(words.pop(0))
count = 1 if options == ["--nodes=1", "--ntasks=1"] else int(os.environ["SLURM_JOB_NUM_NODES"])
assert count == 1 or not options, options
tasks = [
    subprocess.Popen(words, env={{**os.environ, "SLURM_NODEID": str(node), "SLURM_STEP_NUM_TASKS": str(count)}})
    for node in range(count)
]
open("{folder}/tasks", "a").write("".join(f"{{task.pid}}\\n" for task in tasks))
sys.exit(max(task.wait() % 256 for task in tasks))
"""
TWHIN = """#!/bin/bash
echo "$@" >> {folder}/calls
[ "$SLURM_JOB_NUM_NODES" != 1 ] || echo $$ >> {folder}/tasks
exec {python} -c 'from twhin.pipelines.cli import main; main()' "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> {folder}/requeued
"""


class Job:
    """A job on one or two nodes, which are this machine."""

    def __init__(self, nodes: int, config: Path, root: str, folder: Path) -> None:
        self.folder, self.nodes = folder, nodes
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/activate").touch()
        for name, text in {"srun": SRUN, "twhin": TWHIN, "scontrol": SCONTROL}.items():
            path = folder / "bin" / name
            path.write_text(text.format(python=sys.executable, folder=folder))
            path.chmod(0o755)
        (folder / "job.sh").write_text(SCRIPTS[0] if nodes > 1 else SCRIPTS[1])
        variables = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}", "TWHIN_VENV": str(folder), "PYTHONPATH": str(ROOT),
            "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_NNODES": str(nodes), "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NODEID": "0",
            "SLURM_JOB_NODELIST": "127.0.0.1" if nodes == 1 else "127.0.0.1,127.0.0.2",
        }  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", str(folder / "job.sh"), str(config), root], cwd=ROOT, env={**os.environ, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def end(self) -> tuple[int, str]:
        try:
            said, _ = self.process.communicate(timeout=SECONDS)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, said

    def stop(self) -> None:
        """As Slurm does before the time is up: SIGTERM to the tasks of the step, or with `B:` to the script."""
        if self.nodes == 1:
            os.kill(self.process.pid, signal.SIGTERM)
        else:
            for task in self.lines("tasks")[-self.nodes :]:
                os.kill(int(task), signal.SIGTERM)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def config(small_config: SmallConfig, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    training = {"num_epochs": 25, "checkpoint_every_n": 10, "checkpoint_max_to_keep": 2}
    path.write_text(config_file.to_yaml(small_config(training=training)))
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_that_is_stopped_is_queued_again_and_ends_as_if_it_had_not_been(
    nodes: int, config: Path, tmp_path: Path
) -> None:
    undisturbed, root = str(tmp_path / "undisturbed"), str(tmp_path / "run")
    code, said = Job(nodes, config, undisturbed, tmp_path / "first").end()
    assert code == 0, said
    assert read_export_manifest(undisturbed) is not None
    assert said.count("results\n") == 2, "evaluate and export print them, on one node each"
    job = Job(nodes, config, root, tmp_path / "second")
    deadline = time.monotonic() + SECONDS
    while not checkpoint.complete(root):
        assert time.monotonic() < deadline
        assert job.process.poll() is None
        time.sleep(0.01)
    job.stop()
    code, said = job.end()
    assert code == 75, said
    assert job.lines("requeued") == [f"requeue {os.getpid()}"]
    assert [call.split()[0] for call in job.lines("calls")] == ["prepare", *["launch"] * nodes]
    interrupted = checkpoint.newest(root)
    assert interrupted is not None
    assert interrupted.step < 200
    again = Job(nodes, config, root, tmp_path / "third")
    code, said = again.end()
    assert code == 0, said
    assert again.lines("requeued") == []
    assert_same_result(root, undisturbed)
    assert [call.split()[0] for call in again.lines("calls")] == ["prepare", *["launch"] * 2 * nodes, "export"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_mistake_ends_the_job_and_is_not_queued_again(nodes: int, tmp_path: Path) -> None:
    job = Job(nodes, tmp_path / "none.yaml", str(tmp_path / "run"), tmp_path / "job")
    code, said = job.end()
    assert code == 2, said
    assert "error: " in said
    assert job.lines("requeued") == []
    assert len(job.lines("calls")) == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_asks_for_one_task_per_node_and_time_to_stop(script: str) -> None:
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", script, re.MULTILINE))
    assert options["signal"] == ("TERM@300" if "srun" in script else "B:TERM@300")
    assert "requeue" in options
    assert options.get("ntasks-per-node", "1") == "1"


def test_there_are_both_scripts() -> None:
    assert ["srun " in script for script in SCRIPTS] == [True, False]
