"""Runs `twhin` as a user does: a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.preloaded import CONTEXT

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from twhin.pipelines.cli import main; main()"]
SECONDS = 280
"""What a command may take."""


def twhin(*arguments: str | Path, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Runs it in the repository's root; `variables` are set in its environment, or removed where None.

    The process, and those of the steps of `twhin run`, have imported everything before, which would take most of their
    time.
    """
    command, environment = ["twhin", *map(str, arguments)], _environment(variables)
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        process = CONTEXT.Process(target=_main, args=(command, environment, out, errors))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, SECONDS, out.read_bytes(), errors.read_bytes())
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), errors.read_text())


def new_twhin(*arguments: str | Path, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """As `twhin`, but the process imports all by itself, and has this one's limits."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS, cwd=ROOT,
        env=_environment(variables),
    )  # fmt: skip


def _environment(variables: dict[str, str | None]) -> dict[str, str]:
    changed = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **variables}
    return {name: value for name, value in changed.items() if value is not None}


def _main(command: list[str], environment: dict[str, str], *streams: Path) -> None:
    become(environment, *streams)
    sys.argv = command
    from kfp.local import subprocess_task_handler

    from twhin.pipelines.cli import main

    subprocess_task_handler.run_local_subprocess = _run_step
    main()


def _run_step(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
    """In place of KFP's function of that name: prints what the step prints, and returns its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        os.mkfifo(output)
        process = CONTEXT.Process(target=_step, args=(full_command, {**os.environ, **(env_vars or {})}, output))
        process.start()
        with output.open() as lines:
            for line in lines:
                print(line, end="")  # noqa: T201 -- which KFP has changed
        process.join()
        assert process.exitcode is not None
        return process.exitcode


def _step(command: list[str], environment: dict[str, str], output: Path) -> None:
    """What the shell in `command` starts, given a component's source and the arguments of KFP's executor."""
    become(environment, output, output)
    shell, _, _, source, *arguments = command
    assert shell == "sh"
    from kfp.dsl.executor_main import executor_main

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ephemeral_component.py")
        path.write_text(source)
        sys.argv = ["executor_main", "--component_module_path", str(path), *arguments]
        executor_main()


def become(environment: dict[str, str], *streams: Path) -> None:
    """Gives this process what a command has: its variables, its folder, and where its stdout and stderr go."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for descriptor, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


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
