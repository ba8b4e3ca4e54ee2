"""How a component's process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT
from twhin.components import step
from twhin_core import lease
from twhin_core.config import file as config_file
from twhin_core.errors import UserError

RAISE_USER_ERROR = "raise UserError('edges.parquet: has no column lhs')"


def start(body: str, **variables: str) -> subprocess.Popen[str]:
    imports = "import time\nfrom twhin.components.step import step\nfrom twhin_core.errors import *"
    code = f"{imports}\nwith step():\n    {body}\n"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )


def test_a_users_error_is_one_line_and_exit_code_2() -> None:
    process = start(RAISE_USER_ERROR)
    assert process.communicate(timeout=60) == ("", "error: edges.parquet: has no column lhs\n")
    assert process.returncode == 2


def test_a_missed_gate_is_exit_code_3() -> None:
    process = start("raise GateFailed('test.all.mrr is 0.1')")
    assert process.communicate(timeout=60) == ("", "error: test.all.mrr is 0.1\n")
    assert process.returncode == 3


def test_the_local_runner_gets_the_error_by_file(tmp_path: Path) -> None:
    error_file = tmp_path / "error.json"
    process = start(RAISE_USER_ERROR, **{step.ERROR_FILE: str(error_file)})
    assert process.communicate(timeout=60) == ("", "")  # `twhin run` shows it, once
    assert process.returncode == 2
    assert json.loads(error_file.read_text()) == {"exit_code": 2, "message": "edges.parquet: has no column lhs"}


def test_an_error_of_ours_keeps_its_traceback() -> None:
    process = start("raise ValueError('a bug')")
    assert "Traceback" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


def test_a_step_does_not_outlive_the_local_runner(tmp_path: Path) -> None:
    process = start("print('started', flush=True); time.sleep(250)", **{step.ERROR_FILE: str(tmp_path / "error.json")})
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.stdout.close()  # as when the process that reads it is killed
    assert process.wait(timeout=60) != 0


@pytest.mark.parametrize(
    "work",
    [
        "import signal; signal.signal(signal.SIGTERM, lambda *_: None); print('started', flush=True); time.sleep(250)",
        "print('started', flush=True)\n    while True: pass",
        "from twhin_core.lease import hold; lease = hold('ROOT', 'train', 0); lease.__enter__();"
        "print('started', flush=True); time.sleep(250)",
    ],
    ids=["as training, which would write a checkpoint first", "without a pause", "with a lease"],
)
def test_a_step_does_not_go_on_for_a_while_without_the_local_runner(work: str, tmp_path: Path) -> None:
    body = work.replace("ROOT", str(tmp_path / "run"))
    process = start(body, **{step.ERROR_FILE: str(tmp_path / "error.json")})
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.stdout.close()
    assert process.wait(timeout=10) == -signal.SIGKILL
    with lease.hold(str(tmp_path / "run"), "train", grace=0):
        pass


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate", "export"])
def test_every_component_takes_the_config_and_the_run_root_and_may_take_the_run(stage: str) -> None:
    module = __import__(f"components.{stage}.component", fromlist=[stage])
    inputs = getattr(module, stage).component_spec.inputs
    assert {name: (spec.type, spec.optional) for name, spec in inputs.items()} == {
        "config": ("String", False),
        "run_root": ("String", False),
        "run": ("String", True),
        "overrides": ("List[String]", True),
    }


def test_a_config_is_text_or_a_file(tmp_path: Path) -> None:
    path = ROOT / "configs/quickstart.yaml"
    (tmp_path / "copy.yml").write_text(path.read_text())
    expected = config_file.load(str(path), ["training.seed=3"])
    line = config_file.to_line(config_file.load(str(path)))
    for given in (path.read_text(), line, str(path), f"{tmp_path}/copy.yml"):
        assert step.read_inputs(given, "root", "", ["training.seed=3"]) == (expected, "root")
    with pytest.raises(UserError, match=r"missing\.yaml: no such config file"):
        step.read_inputs(f"{tmp_path}/missing.yaml", "root", "", None)
