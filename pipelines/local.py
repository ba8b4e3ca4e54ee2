"""The pipeline on this machine, each step a process: KFP's local runner."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kfp import local

from twhin.components import step
from twhin.pipelines import pipeline
from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import GateFailed, Preempted, TwhinError, UserError


class StepFailed(TwhinError):
    """A step ended with an error of ours; its traceback is in the output."""


def run(config: Config, run_root: str, debug: bool = False) -> None:
    """Runs the whole DAG; what the steps log goes to stderr. Export is left out where a gate is missed.

    Raises:
        UserError, GateFailed: a step ended with it, or another `twhin run` is at work under the root.
        Preempted: SIGTERM came, and the running step has ended.
        StepFailed: a step ended with another error.
    """
    with tempfile.TemporaryDirectory(prefix="twhin-") as scratch, lease.hold(run_root, "run", patience=0):
        error_file = Path(scratch) / "error.json"
        # KFP's own outputs are small copies of what the run root holds; they are local files always.
        folder = scratch if storage.is_remote(run_root) else storage.filesystem(run_root)[1]
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=f"{folder}/kfp")
        variables = {step.ERROR_FILE: str(error_file), step.DEBUG: "1" if debug else "0"}
        with _environment(variables), _only_steps_speak(), _sigterm_passed_on(Path(scratch)):
            try:
                pipeline.build()(config=config_file.to_line(config), run_root=run_root, overrides=[])
            except RuntimeError as failure:  # all that KFP says of a step that failed
                if not error_file.exists() and (Path(scratch) / step.STOP_FILE).exists():
                    raise Preempted("SIGTERM: stopped; run it again to go on from there") from None
                if not error_file.exists():
                    raise StepFailed("a step of the pipeline failed; what it said is above") from failure
                error = json.loads(error_file.read_text())
                kinds = {kind.exit_code: kind for kind in (UserError, GateFailed, Preempted)}
                raise kinds.get(error["exit_code"], StepFailed)(error["message"]) from None


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables that the steps inherit, for as long as the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _sigterm_passed_on(folder: Path) -> Iterator[None]:
    """Passes a SIGTERM on to the running step, or the next one, whose end KFP then reports."""

    def pass_on(*_: object) -> None:
        (folder / step.STOP_FILE).touch()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((folder / step.PID_FILE).read_text()), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _only_steps_speak() -> Iterator[None]:
    """Passes what the steps print on to stderr, and leaves out what KFP says about itself."""
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(_StepOutput(sys.stderr)):
            # The image holds this very package; its name need not say python.
            warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)
            yield
    finally:
        logging.disable(disabled)


class _StepOutput(io.TextIOBase):
    """A stdout for KFP's runner: of the lines that it indents by four, which are a step's, the step's own pass."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._line = ""
        self._in_executor_input = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            self._write_line(line)
        return len(text)

    def _write_line(self, line: str) -> None:
        if not line.startswith("    ") or not line.strip():
            return  # rules and blank lines between the steps
        line = line[4:]
        if line.startswith("[KFP Executor"):
            self._in_executor_input = line.endswith("Got executor_input:")  # its JSON follows, down to a lone brace
        elif self._in_executor_input:
            self._in_executor_input = line != "}"
        else:
            self._out.write(line + "\n")
            self._out.flush()
