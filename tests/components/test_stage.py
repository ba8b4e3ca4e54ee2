"""The command that starts a component."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.command_line import ROOT
from twhin.components.stage import stage


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
