"""What every component does around the stage that it runs: the log, and errors in one line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twhin_core import limits, storage
from twhin_core.errors import TwhinError
from twhin_core.progress import log, show_log
from twhin_core.stages.report import REPORT

ERROR_FILE = "TWHIN_ERROR_FILE"
"""Environment variable: where a step leaves an error for `twhin run`, which KFP would tell only that it failed."""
PID_FILE, STOP_FILE = "pid", "stop"
"""Beside the error file: the process of the newest step, and whether it was to stop before it had begun."""
DEBUG = "TWHIN_DEBUG"
"""Environment variable: set to 1, a step logs more and shows the traceback of a user's error."""


@contextlib.contextmanager
def step() -> Iterator[None]:
    """Runs a stage as the process of a component: an error of the user's ends it with one line and its exit code."""
    limits.use_cores()
    show_log(debug=os.environ.get(DEBUG) == "1")
    error_file = os.environ.get(ERROR_FILE)
    if error_file is not None:
        _answer_for_signals(Path(error_file).parent)
        threading.Thread(target=_end_with_reader, daemon=True).start()
    try:
        yield
    except TwhinError as error:
        if log.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        if error_file is None:
            sys.stderr.write(f"error: {error}\n")
        else:
            Path(error_file).write_text(json.dumps({"exit_code": error.exit_code, "message": str(error)}))
        sys.exit(error.exit_code)


def _answer_for_signals(folder: Path) -> None:
    """Tells `twhin run` which process a SIGTERM is to be passed on to; one that came before this is obeyed now."""
    (folder / PID_FILE).write_text(str(os.getpid()))
    if (folder / STOP_FILE).exists():
        os.kill(os.getpid(), signal.SIGTERM)


def _end_with_reader() -> None:
    """Ends this process when nobody reads its output any more.

    A step of `twhin run` writes to a pipe. Were `twhin run` killed, the step would otherwise go on writing under a run
    root that the next `twhin run` writes under too.
    """
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # asks for nothing: only the loss of the reader is reported
    output.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def publish(artifact: Any, url: str, uri: str) -> None:
    """Fills a KFP artifact with the small file at `url` and notes in its metadata the `uri` of what that describes.

    The bulk stays under the run root: KFP would download it before a step starts and upload it only after success.
    """
    Path(artifact.path).write_text(storage.read_text(url))
    artifact.metadata["uri"] = uri


def publish_report(artifact: Any, run_root: str) -> None:
    """Fills an HTML artifact with the run's report; leaves it empty where the report could not be drawn."""
    if storage.exists(storage.join(run_root, REPORT)):
        publish(artifact, storage.join(run_root, REPORT), uri=storage.join(run_root, "evaluation"))


def report(metrics: Any, figures: Mapping[str, float], summary: Any, text: str) -> None:
    """Fills the artifacts that say what a step did: flat `figures`, and a page of Markdown."""
    for name, value in figures.items():
        metrics.log_metric(name, value)
    Path(summary.path).write_text(text)
