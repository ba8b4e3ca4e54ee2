"""Runs the pipeline on this machine with KFP's local runner, which starts a process per step."""

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
from typing import Any, TextIO

from kfp import local
from kfp.dsl.graph_component import GraphComponent

from twhin.components import step
from twhin.pipelines import pipeline, refresh
from twhin_core import activity, lease, storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import GateFailed, Preempted, TwhinError, UserError


class StepFailed(TwhinError):
    """A step failed with a bug; its traceback is in the output."""


def run(config: Config, run_root: str, debug: bool = False) -> None:
    """Runs the DAG of a run. As `run_pipeline`."""
    with _config_file(config_file.to_line(config)) as path:
        run_pipeline(pipeline.build(), run_root, debug, config=path, run_root=run_root, overrides=[])


def run_refresh(text: str, series: str, keep: int, overrides: list[str], debug: bool = False) -> None:
    """Runs the DAG of a refresh of a series with the config `text`. As `run_pipeline`."""
    with _config_file(text) as path:
        run_pipeline(refresh.build(), series, debug, config=path, series=series, keep=keep, overrides=overrides)


@contextlib.contextmanager
def _config_file(text: str) -> Iterator[str]:
    """A file with a config, which can be longer than an argument of a process."""
    with tempfile.TemporaryDirectory(prefix="twhin-") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(text)
        yield str(path)


def run_pipeline(of: GraphComponent, root: str, debug: bool, **parameters: Any) -> None:
    """Runs a DAG that works under `root`. The steps' logs go to stderr. Skips export if a gate fails.

    Raises:
        UserError, GateFailed: a step raised it, or another command runs a DAG under the root.
        Preempted: this process received SIGTERM, and the running step has ended.
        StepFailed: a step failed with another error.
    """
    with (
        tempfile.TemporaryDirectory(prefix="twhin-") as scratch, lease.hold(root, "run", grace=0),
        activity.noted(root, "run"),
    ):  # fmt: skip
        error_file = Path(scratch) / "error.json"
        # KFP's artifacts are small copies of files under the run root. They must be local.
        folder = scratch if storage.is_remote(root) else storage.filesystem(root)[1]
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=f"{folder}/kfp")
        variables = {step.ERROR_FILE: str(error_file), step.DEBUG: "1" if debug else "0"}
        with _environment(variables), _step_output_only(), _sigterm_forwarded(Path(scratch)):
            try:
                of(**parameters)
            except RuntimeError as failure:  # KFP does not say why a step failed
                if not error_file.exists() and (Path(scratch) / step.STOP_FILE).exists():
                    raise Preempted("SIGTERM: stopped; run it again to resume") from None
                if not error_file.exists():
                    raise StepFailed("a step of the pipeline failed; its output is above") from failure
                error = json.loads(error_file.read_text())
                kinds = {kind.exit_code: kind for kind in (UserError, GateFailed, Preempted)}
                raise kinds.get(error["exit_code"], StepFailed)(error["message"]) from None


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables, which the steps inherit, while the block runs."""
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
def _sigterm_forwarded(folder: Path) -> Iterator[None]:
    """Forwards SIGTERM to the running step, or else to the next one. KFP then reports that the step failed."""

    def forward(*_: object) -> None:
        (folder / step.STOP_FILE).touch()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((folder / step.PID_FILE).read_text()), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _step_output_only() -> Iterator[None]:
    """Copies the output of the steps to stderr, without KFP's own messages."""
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(_StepOutput(sys.stderr)):
            # KFP warns because the image is not named python; ours contains this package.
            warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)
            yield
    finally:
        logging.disable(disabled)


class _StepOutput(io.TextIOBase):
    """A stdout for KFP's runner that keeps only the output of steps, which the runner indents by four spaces."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._line = ""
        self._in_executor_input = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._write_line(line)
        return len(text)

    def _write_line(self, line: str) -> None:
        if not line.startswith("    ") or not line.strip():
            return  # separators between the steps
        line = line[4:]
        if line.startswith("[KFP Executor"):
            self._in_executor_input = line.endswith("Got executor_input:")  # its JSON follows, down to a lone brace
        elif self._in_executor_input:
            self._in_executor_input = line != "}"
        else:
            self._out.write(line + "\n")
            self._out.flush()
