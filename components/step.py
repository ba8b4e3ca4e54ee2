"""What every component does around its stage: inputs, logging, one-line errors and artifacts."""

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

from twhin.components.run_root import fill_run_root
from twhin_core import limits, storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import TwhinError
from twhin_core.evaluation.result import place
from twhin_core.progress import log, log_of, prefer_format, show_error, show_log
from twhin_core.stages.report import report_url

ERROR_FILE = "TWHIN_ERROR_FILE"
"""Environment variable: the file through which a step reports an error to `twhin run`. KFP only reports failure."""
PID_FILE, STOP_FILE = "pid", "stop"
"""Next to the error file: the process id of the current step, and a marker that steps must stop."""
DEBUG = "TWHIN_DEBUG"
"""Environment variable: if 1, a step logs more and shows tracebacks of user errors."""


@contextlib.contextmanager
def step() -> Iterator[None]:
    """Runs the body of a component. A TwhinError ends the process with one line and the error's exit code."""
    limits.use_cores()
    show_log(debug=os.environ.get(DEBUG) == "1")
    error_file = os.environ.get(ERROR_FILE)
    if error_file is not None:
        _register_for_signals(Path(error_file).parent)
        threading.Thread(target=_end_with_reader, daemon=True).start()
    try:
        yield
    except TwhinError as error:
        if error_file is None:
            show_error(error)
        else:
            if log.isEnabledFor(logging.DEBUG):
                traceback.print_exc()
            Path(error_file).write_text(json.dumps({"exit_code": error.exit_code, "message": str(error)}))
        sys.exit(error.exit_code)


def _register_for_signals(folder: Path) -> None:
    """Tells `twhin run` which process to forward SIGTERM to, and handles one that arrived before."""
    (folder / PID_FILE).write_text(str(os.getpid()))
    if (folder / STOP_FILE).exists():
        os.kill(os.getpid(), signal.SIGTERM)


def _end_with_reader() -> None:
    """Kills this process when its output pipe has lost its reader, as a kill of `twhin run` would kill a thread of it.

    Otherwise a step whose `twhin run` was killed would keep writing under a run root that the next `twhin run` uses.
    It is no time for a last checkpoint either: the next run would have to wait for it. (The parent's death would be no
    sign: KFP may put a shell between the two.)
    """
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # no events: only the loss of the reader is reported
    output.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def read_inputs(config: str, run_root: str, run: str, overrides: list[str] | None) -> tuple[Config, str]:
    """The config and the run root of a component with these inputs. Raises UserError for a mistake in either.

    `config`: YAML, or the path or URL of a YAML file. A command line holds 128 KiB of it, some servers less.
    """
    root = fill_run_root(run_root, run)
    log_of(run=root)
    settings = config_file.parse(read_text(config), config if _is_file(config) else "config", overrides or ())
    prefer_format(settings.runtime.log_format)
    return settings, root


def read_text(config: str) -> str:
    """The text of a config that is given as YAML, or as the path or URL of a YAML file."""
    return config_file.read_text(config) if _is_file(config) else config


def _is_file(config: str) -> bool:
    return "\n" not in config and config.endswith((".yaml", ".yml"))


def publish(artifact: Any, url: str, uri: str) -> None:
    """Fills a KFP artifact with the small file at `url`, and sets the `uri` of the data it describes in its metadata.

    The data stays under the run root: KFP downloads artifacts before a step starts and uploads them only on success.
    """
    Path(artifact.path).write_text(storage.read_text(url))
    artifact.metadata["uri"] = uri


def publish_report(artifact: Any, config: Config, run_root: str) -> None:
    """Fills an HTML artifact with the run's report, or leaves it empty if there is no report."""
    split = config.evaluation.split
    if storage.exists(url := report_url(run_root, split)):
        publish(artifact, url, uri=place(run_root, split))


def report(metrics: Any, figures: Mapping[str, float], summary: Any, text: str) -> None:
    """Fills the artifacts that describe a step: `figures` as KFP metrics, and a page of Markdown."""
    for name, value in figures.items():
        metrics.log_metric(name, value)
    Path(summary.path).write_text(text)
