"""What a sweep has tried, for the terminal and for its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twhin_core.output import Cell, Column, Listing
from twhin_core.report.sweep import Ranged, Tried, write_sweep_report
from twhin_core.sizes import count_of
from twhin_core.tuning.space import free, labels, short_names
from twhin_core.tuning.study import CURVE, REASON, Study, seconds_of

if TYPE_CHECKING:
    import optuna

STATES = {"COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running"}
SHOWN = 20
"""Trials on a terminal."""


def tried(study: Study) -> list[Tried]:
    """All trials: complete ones, the best first, then the others, those that trained longest first."""
    sign = -1 if study.sweep.direction == "maximize" else 1

    def place(of: Tried) -> tuple[bool, float, float]:
        is_complete = of.state == "complete"  # if training ended early by itself, so is one with a smaller share
        return not is_complete, 0.0 if is_complete else -of.share, sign * of.value if of.value is not None else 0.0

    return sorted(map(_tried, study.trials()), key=place)


def _tried(trial: optuna.trial.FrozenTrial) -> Tried:
    curve = [(share, value) for share, value in trial.user_attrs.get(CURVE, [])]
    return Tried(
        number=trial.number + 1,
        state=STATES[trial.state.name],
        value=curve[-1][1] if curve else None,
        curve=curve,
        seconds=seconds_of(trial),
        values=dict(trial.params),
        reason=trial.user_attrs.get(REASON, ""),
    )


def list_trials(study: Study) -> Listing:
    """The trials as a table with a column for each key."""
    names = short_names(study.sweep)
    columns = [
        Column("trial", "d"), Column("state"), Column(study.sweep.metric, ".4f"), Column("trained", ".0%"),
        Column("seconds", ",.1f"), *(Column(name, keys=(key,)) for key, name in names.items()),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [of.number, of.state, of.value, of.share, of.seconds, *(_cell(of.values.get(key)) for key in names)]
        for of in tried(study)
    ]
    return Listing("trials", f"{count_of(len(rows), 'trial')}, the best first", columns, rows, SHOWN)


def _cell(value: Any) -> Cell:
    return f"{value:.6g}" if isinstance(value, float) else None if value is None else str(value)


def draw(url: str, study: Study, root: str, config: str) -> None:
    """Writes the page. `config` is the text of the best trial's."""
    trials, sweep = tried(study), study.sweep
    names = short_names(sweep)
    space = [
        Ranged(key, names[key], labels(of))
        if of.choice is not None
        else Ranged(key, names[key], [], *of.bounds, is_log=of.kind.startswith("log"))
        for key, of in free(sweep).items()
    ]
    write_sweep_report(url, root, sweep.metric, trials[0], trials, space, study.importances(), config)
