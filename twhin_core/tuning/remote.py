"""A trial on a cluster: the platform chooses its values, and reads its figures from where it looks for them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from twhin_core import storage
from twhin_core.config.sweep import Parameter, Sweep
from twhin_core.errors import TwhinError, UserError, suggest
from twhin_core.progress import log, log_of, prefer_format
from twhin_core.run import TRIALS, saved_config
from twhin_core.tuning.space import Values, check, combine, labels, metric_id, short_names, sweep_of, words
from twhin_core.tuning.trial import Trial

Platform = Literal["katib", "vertex"]
Report = Callable[[str, float, int], None]
"""Takes the metric's id, its value and the number of the look."""

PAUSE = 1.0
"""Seconds between two looks for new checkpoints."""
METRIC_FILE, TRIAL = "CLOUD_ML_HP_METRIC_FILE", "CLOUD_ML_TRIAL_ID"
"""Vertex AI's environment variables."""
DEFAULT_METRIC_FILE = "/tmp/hypertune/output.metrics"  # noqa: S108 -- where Vertex AI looks for it


class TrialFailed(TwhinError):
    """The training of a trial failed; its own message says why."""


def run_trial(root: str, name: str, given: Mapping[str, str], report: Report) -> float:
    """Trains and measures one combination on the graph of the run at `root`, under `trials/<name>` there.

    The run has been prepared with a config that has a sweep. Called again, it goes on from the newest checkpoint.

    Args:
        given: the values by their short names, choices by their words; those whose `when` does not hold are ignored.
        report: is called after each look.

    Returns:
        The metric at the end.

    Raises:
        UserError: there is no run, or it has no sweep; a value is missing, unknown or not in its range; or as `Trial`.
        TrialFailed: training failed.
    """
    config = saved_config(root)
    prefer_format(config.runtime.log_format)
    check(config)
    sweep = sweep_of(config)
    values = read_given(sweep, given)
    log.info("trial: %s", json.dumps(values, ensure_ascii=False))
    own = storage.join(root, TRIALS, name)
    trial = Trial(config, values, own, root if config.prepare is not None else None, own_log=False)
    log_of(run=own, stage="trial")  # no longer that of its prepare stage
    try:
        while True:
            was_over = trial.is_over()
            if trial.look():
                assert trial.value is not None
                report(metric_id(sweep), trial.value, len(trial.curve))
            elif was_over:
                break
            else:
                time.sleep(PAUSE)
    finally:
        trial.stop()
    if trial.error is not None:
        raise TrialFailed(f"trial: {trial.error}")
    trial.finish()
    assert trial.value is not None
    return trial.value


def read_given(sweep: Sweep, given: Mapping[str, str]) -> Values:
    """The values by key. Raises UserError if one is missing, unknown or not in its range."""
    names = short_names(sweep)
    if unknown := sorted(given.keys() - names.values()):
        raise UserError(f"--{unknown[0]}: no key of the space has this name; {suggest(unknown[0], names.values())}")

    def draw(key: str, parameter: Parameter) -> Any:
        name = names[key]
        if name not in given:
            raise UserError(f"--{name}: the trial needs a value for {key}")
        if parameter.choice is None:
            return given[name]
        return dict(zip(words(parameter), labels(parameter), strict=True)).get(given[name], given[name])

    return combine(sweep, draw)


def to_stdout(metric: str, value: float, _look: int) -> None:
    """As Katib's collector of stdout reads it by default: `name=value` on a line."""
    sys.stdout.write(f"{metric}={value:.10f}\n")
    sys.stdout.flush()


class MetricFile:
    """The file from which Vertex AI reads a trial's figures: a line of JSON per look, whose numbers are texts."""

    def __init__(self) -> None:
        self._path = Path(os.environ.get(METRIC_FILE, DEFAULT_METRIC_FILE))
        self._lines: list[str] = []

    def __call__(self, metric: str, value: float, look: int) -> None:
        line = {
            "timestamp": time.time(),
            "trial": os.environ.get(TRIAL, "0"),
            metric: str(value),
            "global_step": str(look),
        }
        self._lines.append(json.dumps(line, sort_keys=True) + "\n")
        storage.write_text(str(self._path), "".join(self._lines))


def report_to(platform: Platform) -> Report:
    return to_stdout if platform == "katib" else MetricFile()
