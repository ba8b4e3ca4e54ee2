"""What goes on in a sweep of this machine, for `twhin status`. Only reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from twhin_core import storage
from twhin_core.config import file as config_file
from twhin_core.progress import Figures
from twhin_core.run import CONFIG, SWEEP, TRIALS
from twhin_core.stages.status import RunStatus, StageStatus, of_lease, of_run
from twhin_core.tuning.page import STATES
from twhin_core.tuning.space import sweep_of
from twhin_core.tuning.study import check_installed, read_states
from twhin_core.tuning.trial import PREPARED


def read_sweep_status(root: str) -> list[RunStatus]:
    """The state of the sweep at `root`, and of the runs in it that are not over: its graph, or trials.

    Raises:
        UserError: Optuna is not installed.
    """
    check_installed()
    states, most = read_states(root), sweep_of(config_file.load(storage.join(root, SWEEP))).trials
    own = _with_trials(of_lease(root, "tune"), Counter(states.values()), most)
    names = [f"{TRIALS}/{number + 1}" for number, state in states.items() if state == "RUNNING"] or [PREPARED]
    roots = [storage.join(root, name) for name in names if storage.exists(storage.join(root, name, CONFIG))]
    return [RunStatus(root, [own], None, None), *(of_run(run) for run in roots)]


def _with_trials(own: StageStatus, counts: Counter[str], most: int) -> StageStatus:
    """The state of the sweep with how many of its trials have ended, as what it does now is a part of one of them."""
    ended = {name: counts[state] for state, name in STATES.items() if state != "RUNNING"}
    how = ", ".join(f"{name} {count}" for name, count in ended.items() if count)
    note = f"a sweep: {sum(ended.values())} of {most} trials have ended{f' ({how})' if how else ''}"
    activity = own.activity
    if activity is not None:
        figures = Figures(
            work="tune", waits=False, done=sum(ended.values()), total=most, unit="trials", per_s=None, left_s=None,
            step=None, steps=None,
        )  # fmt: skip
        activity = {**activity, "figures": figures}
    return replace(own, activity=activity, note=f"{note}; {own.note}" if own.note else note)
