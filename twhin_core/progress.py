"""Logging and progress: a bar on a terminal, otherwise a log line every few seconds."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import TypedDict

from tqdm import tqdm

from twhin_core.errors import TwhinError

log = logging.getLogger("twhin")

LOG_INTERVAL = 5.0  # seconds

LOG_FORMAT = "TWHIN_LOG_FORMAT"
"""Environment variable, which the processes of a run inherit: `text`, or `json` for one JSON object per line."""
_context: dict[str, str | int | None] = {"run": None, "stage": None, "step": None}
"""What lines of JSON say of the work that they are about."""
DATE = "%Y-%m-%d %H:%M:%S"


def show_log(debug: bool = False) -> None:
    """Sends the log to stderr, in the format that `TWHIN_LOG_FORMAT` asks for. Only entry points call it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if _is_json() else logging.Formatter("%(asctime)s %(message)s", DATE))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(_is_json())
    sys.excepthook = _log_uncaught if _is_json() else sys.__excepthook__
    threading.excepthook = _log_uncaught_in_thread
    if not debug:
        # Deprecations and planner hints of torch and torchrec are for developers; a user cannot fix them.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torchrec\.")
        # Those who asked say that a server did not answer; urllib3 would say it for each attempt.
        for name in ("torch", "torch.fx._symbolic_trace", "torchrec", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # torchrec also writes to the root logger
        handler.addFilter(lambda record: record.levelno > logging.WARNING or "torchrec" not in record.pathname)


def prefer_format(wanted: str | None) -> None:
    """Writes the log as the config wants it, unless `TWHIN_LOG_FORMAT` is set. Called once a command has its config."""
    if wanted is not None and LOG_FORMAT not in os.environ:
        os.environ[LOG_FORMAT] = wanted
        show_log(debug=log.isEnabledFor(logging.DEBUG))


def log_of(**context: str | int) -> None:
    """Sets the `run`, `stage` or `step` that following lines of JSON are about. A new stage has no step yet."""
    assert context.keys() <= _context.keys()
    if context.get("stage", _context["stage"]) != _context["stage"]:
        _context["step"] = None
    _context.update(context)


def show_error(error: TwhinError) -> None:
    """Shows what ends this process: one line on stderr, after its traceback if debugging."""
    is_debugged = log.isEnabledFor(logging.DEBUG) and error.__traceback__ is not None
    if _is_json():
        log.error("%s", error, exc_info=error if is_debugged else None)
        return
    if is_debugged:
        traceback.print_exception(error)
    line = " ".join(str(error).splitlines())  # names from the data may have line breaks
    sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()


def error_in(line: str) -> str | None:
    """The message that `show_error` made this line of, in either format; None if it is another line."""
    if line.startswith("error: "):
        return line.removeprefix("error: ")
    try:
        found = json.loads(line)
    except ValueError:
        return None
    is_error = isinstance(found, dict) and found.get("severity") == "ERROR"
    return str(found.get("message")) if is_error else None


def say(line: str) -> None:
    """Shows a line on stderr that is no message of the log, but becomes one where the log is JSON."""
    if _is_json():
        log.info("%s", line)
        return
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _is_json() -> bool:
    return os.environ.get(LOG_FORMAT) == "json"


class _JsonFormatter(logging.Formatter):
    """A line per record, with the fields that Cloud Logging knows; others can be told to read them too.

    `run`, `stage` and `step` are null before they are known.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
            "rank": int(os.environ.get("RANK", "0")),
            **_context,
        }
        if record.exc_info:
            fields["stack_trace"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _log_uncaught_in_thread(of: threading.ExceptHookArgs) -> None:
    # Whoever waits for the thread says what this means, as TensorBoard's writer does of a folder that is gone.
    is_expected = isinstance(of.exc_value, OSError) and not log.isEnabledFor(logging.DEBUG)
    if is_expected or _is_json():
        error = None if is_expected else of.exc_value
        log.error(
            "%s in thread %s: %s", of.exc_type.__name__, of.thread and of.thread.name, of.exc_value, exc_info=error
        )
    else:
        threading.__excepthook__(of)


class Figures(TypedDict):
    """How far the work of this process is; None for what is not known."""

    work: str | None
    """What it does or waits for."""
    waits: bool
    done: int | None
    total: int | None
    unit: str | None
    per_s: float | None
    """The mean of this process, in units per second."""
    left_s: float | None
    step: int | None
    steps: int | None
    """The last step of training."""


_shown: list[Progress] = []
"""The progress that this process shows, innermost last."""
_waits: list[str] = []
"""What this process waits for."""


def figures() -> Figures:
    """How far this process is, for `activity`."""
    found = _shown[-1].figures() if _shown else Figures(
        work=None, waits=False, done=None, total=None, unit=None, per_s=None, left_s=None, step=None, steps=None
    )  # fmt: skip
    return {**found, "work": _waits[-1], "waits": True} if _waits else found


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says that this process waits for something while the block runs."""
    _waits.append(what)
    try:
        yield
    finally:
        _waits.pop()


class Progress:
    """Shows progress: `with Progress("train", total, "edges") as progress: progress.update(n, loss=0.3)`."""

    def __init__(
        self, name: str, total: int, unit: str, done: int = 0, quiet: bool = False, steps: int | None = None
    ) -> None:
        """`steps`: the last step of training; updates then give the figure `step`."""
        self._name, self._total, self._unit, self._steps = name, total, unit, steps
        self._step: int | None = None
        self._start, self._done = done, done
        self._quiet = quiet
        self._started = self._printed = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and not quiet and not _is_json():
            self._bar = tqdm(desc=name, total=total, initial=done, unit=f" {unit}", unit_scale=True, file=sys.stderr)

    def __enter__(self) -> Progress:
        if not self._quiet:
            _shown.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._quiet:
            _shown.remove(self)
        if self._bar is not None:
            self._bar.close()
        elif kind is None and not self._quiet:
            self._line("")

    def update(self, count: int, **figures: float) -> None:
        """Adds `count` finished units; `figures` are shown next to the progress."""
        self._done += count
        if self._steps is not None:
            self._step = int(figures["step"])
        shown = ", ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(count)
        elif not self._quiet and time.monotonic() - self._printed >= LOG_INTERVAL:
            self._line(shown)

    def figures(self) -> Figures:
        rate, left = self._speed()
        return Figures(
            work=self._name, waits=False, done=self._done, total=self._total, unit=self._unit, per_s=round(rate, 1),
            left_s=round(left, 1), step=self._step, steps=self._steps,
        )  # fmt: skip

    def _speed(self) -> tuple[float, float]:
        """Units per second until now, and the seconds left at that speed."""
        rate = (self._done - self._start) / max(time.monotonic() - self._started, 1e-9)
        return rate, (self._total - self._done) / rate if rate else 0.0

    def _line(self, shown: str) -> None:
        self._printed = time.monotonic()
        rate, left = self._speed()
        share = self._done / self._total if self._total else 1.0
        text = f"{self._name}: {share:.0%} of {self._total:,} {self._unit}, {rate:,.0f}/s, {left:.0f} s left"
        log.info("%s", f"{text}, {shown}" if shown else text)


def _short(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:.3g}"
