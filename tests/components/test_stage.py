"""The command that starts a component."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl

from tests.command_line import ROOT
from twhin.components.evaluate.component import evaluate
from twhin.components.export.component import export
from twhin.components.prepare.component import prepare
from twhin.components.stage import stage
from twhin.components.train.component import train


@stage
def waits(folder: str) -> None:
    """Ends with 75 when it is told to."""
    import signal
    import sys
    import time
    from pathlib import Path

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    Path(folder, "began").touch()
    time.sleep(250)


def test_the_signal_of_a_platform_reaches_the_stage_through_the_command_that_it_is_given(tmp_path: Path) -> None:
    executor_input = {
        "inputs": {"parameterValues": {"folder": str(tmp_path)}},
        "outputs": {"outputFile": str(tmp_path / "outputs.json")},
    }
    command = waits.component_spec.implementation.container.command
    process = subprocess.Popen(
        [*command, "--executor_input", json.dumps(executor_input), "--function_to_execute", "waits"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "began").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()  # of the first process, as a container's runtime does
        assert process.wait(timeout=60) == 75
    finally:
        process.kill()


@dsl.component
def of_another() -> str:
    return "x"


def test_a_stage_is_not_cached_in_a_pipeline_of_ones_own(tmp_path: Path) -> None:
    """Whose author knows nothing of KFP's cache, and whose other tasks keep it."""

    @dsl.pipeline(name="own")
    def own(config: str, run_root: str) -> None:
        of_another()
        prepared = prepare(config=config, run_root=run_root)
        trained = train(config=config, run_root=run_root).after(prepared).set_cpu_limit("4")
        with dsl.If(config != "", name="unless-empty"):
            evaluate(config=config, run_root=run_root).after(trained)
            export(config=config, run_root=run_root)
        waits(folder=run_root)

    path = tmp_path / "own.yaml"
    compiler.Compiler().compile(own, str(path))
    tasks: dict[str, Any] = {}
    document = yaml.safe_load(path.read_text())
    for dag in (document["root"]["dag"], document["components"]["comp-condition-1"]["dag"]):
        tasks |= {name: task for name, task in dag["tasks"].items() if not name.startswith("condition")}
    cached = {name: task["cachingOptions"].get("enableCache", False) for name, task in tasks.items()}
    assert cached == {
        "of-another": True, "prepare": False, "train": False, "evaluate": False, "export": False, "waits": False
    }  # fmt: skip
