"""What goes on under a run root or in a series: read from leases, records and manifests, without taking part."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from twhin_core import lease, storage
from twhin_core.activity import Activity, age, read_activity
from twhin_core.checkpoints.blocks import MARKER
from twhin_core.checkpoints.checkpoint import FINISHED, Checkpoint, newest
from twhin_core.config import Config
from twhin_core.errors import UserError, one_line
from twhin_core.evaluation.result import read_metrics
from twhin_core.export.manifest import read_export_manifest
from twhin_core.graph.manifest import read_manifest
from twhin_core.published import list_ids, root_of
from twhin_core.removed import read_removed
from twhin_core.run import CONFIG, check_is_run, is_series, saved_config
from twhin_core.stages.recommend import read_lists
from twhin_core.tracking.sent import Sent, read_all

OF_A_SERIES = ("run", "plan", "publish")
"""The leases of a series itself."""


@dataclass(frozen=True)
class StageStatus:
    """A row of `twhin status`. What is not known is None."""

    root: str
    stage: str
    state: str
    """`not started`, `running`, `waiting`, `stopped`, `failed`, `stale lease`, `outdated` or `done`."""
    activity: Activity | None
    """Of the last call; of an earlier version of this library, none."""
    holder: str | None
    """The process that its lease names."""
    step: int | None = None
    """That training has reached, or of the checkpoint that was evaluated, exported or recommended from."""
    note: str | None = None
    """What it waits for, or the error that it ended with."""


@dataclass(frozen=True)
class RunStatus:
    """A run root and its stages."""

    root: str
    stages: list[StageStatus]
    checkpoint: Checkpoint | None
    """The newest complete one."""
    written: datetime | None
    """When it was complete."""
    tracked: dict[str, Sent] = field(default_factory=dict)
    """What each tracker has of it."""


def read_status(path: str) -> list[RunStatus]:
    """The state of the run at `path`, or of every version of the series there.

    Raises:
        UserError: there is neither.
    """
    if not is_series(path):
        check_is_run(path)
        return [of_run(path)]
    roots = [root for version in list_ids(path) if read_removed(root := root_of(path, version)) is None]
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(of_run, roots))
    held = [of_lease(path, name) for name in OF_A_SERIES if lease.look(path, name) is not None]
    return [RunStatus(path, held, None, None), *runs] if held else runs


def at_work(root: str, *own: str) -> str | None:
    """A stage under `root` that a process works on, other than `own`, in words; None if there is none."""
    for stage in lease.STAGES:
        if stage not in own and (of := of_lease(root, stage)).state in ("running", "waiting"):
            return f"{stage} is at work: {of.holder}"
    return None


def of_run(root: str) -> RunStatus:
    """The state of a run root."""
    config = saved_config(root) if storage.exists(storage.join(root, CONFIG)) else None
    checkpoint = newest(root)
    run = of_lease(root, "run")
    stages = [
        _of_stage(root, stage, find, checkpoint, is_next=run.state == "running")
        for stage, find in _finders(root, config).items()
    ]
    if lease.look(root, "follow") is not None:
        stages.append(of_lease(root, "follow"))
    written = None if checkpoint is None else _modified(storage.join(checkpoint.url, MARKER))
    return RunStatus(root, [*stages, run] if run.holder is not None else stages, checkpoint, written, read_all(root))


def _finders(root: str, config: Config | None) -> dict[str, Callable[[], int | bool | None]]:
    """By stage, what finds its finished work: the step that it is of, True where there is no step, or None."""
    if config is None:
        return {"prepare": lambda: None, "train": lambda: None}
    split = config.evaluation.split
    finders: dict[str, Callable[[], int | bool | None]] = {} if config.prepare is None else {
        "prepare": lambda: read_manifest(root) is not None or None
    }  # fmt: skip
    finders["train"] = lambda: (storage.find_json(storage.join(root, FINISHED)) or {}).get("step")
    finders["evaluate"] = lambda: (read_metrics(root, split) or {}).get("checkpoint")
    finders["export"] = lambda: None if (made := read_export_manifest(root)) is None else made.checkpoint
    if config.recommend:
        finders["recommend"] = partial(_recommended, config, root)
    return finders


def _recommended(config: Config, root: str) -> int | None:
    """The step of all lists, or that of the oldest; None if lists are missing."""
    made = read_lists(config, root)
    return min(of.checkpoint for of in made.values()) if len(made) == len(config.recommend) else None


def _of_stage(
    root: str, stage: str, find: Callable[[], int | bool | None], newest: Checkpoint | None, is_next: bool
) -> StageStatus:
    status = of_lease(root, stage)
    activity, state, note = status.activity, status.state, status.note
    try:
        found = find()
    except UserError as error:
        return StageStatus(root, stage, "failed", activity, status.holder, None, one_line(error))
    step = None if isinstance(found, bool) else found
    if stage == "train":
        reached = activity["figures"]["step"] if activity is not None and state in ("running", "waiting") else None
        step = reached or step or (None if newest is None else newest.step)
    if state not in ("running", "waiting"):
        if found is not None:
            is_old = step is not None and newest is not None and step < newest.step
            state = "outdated" if is_old else "done"
        elif state in ("not started", "done"):  # a call that ended well, whose result has been removed since
            begun = stage == "train" and newest is not None
            state = "stopped" if begun else "waiting" if is_next else "not started"
            note = "for its turn" if state == "waiting" else note
    return StageStatus(root, stage, state, activity, status.holder, step, note)


def of_lease(root: str, stage: str) -> StageStatus:
    """The state of a stage as far as its lease and its record tell."""
    holder, activity = lease.look(root, stage), read_activity(root, stage)
    name = None if holder is None else holder.name
    if holder is None:
        ended = None if activity is None else activity["ended"] or "stopped"
        return StageStatus(root, stage, ended or "not started", activity, name, note=activity and activity["error"])
    is_recent = activity is not None and activity["ended"] is None and age(activity["at"]) < lease.EXPIRY
    if holder.is_alive or (holder.is_alive is None and is_recent):
        waits = activity["figures"]["work"] if activity is not None and activity["figures"]["waits"] else None
        return StageStatus(root, stage, "waiting" if waits else "running", activity, name, note=waits)
    note = "its process is gone" if holder.is_alive is False else "its process has said nothing for minutes"
    return StageStatus(root, stage, "stale lease", activity, name, note=f"{note}; run the command again to go on")


def _modified(url: str) -> datetime | None:
    """When a file was written, in UTC; None if it was just removed."""
    fs, path = storage.filesystem(url)
    try:
        found: datetime = fs.modified(path)
    except FileNotFoundError:
        return None
    return found.astimezone(UTC)
