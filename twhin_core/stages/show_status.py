"""The state of runs as tables."""

from __future__ import annotations

from datetime import UTC, datetime

from twhin_core.activity import age
from twhin_core.output import Cell, Column, Listing
from twhin_core.stages.status import RunStatus, StageStatus


def list_status(runs: list[RunStatus], place: str) -> list[Listing]:
    """The stages, the leases that are held, the newest checkpoints and, where runs are tracked, what trackers have.

    Of a series, those of its versions.
    """
    tracked = [_tracked(runs, place)] if any(run.tracked for run in runs) else []
    return [_stages(runs, place), _leases(runs, place), _checkpoints(runs, place), *tracked]


def _stages(runs: list[RunStatus], place: str) -> Listing:
    columns = [
        Column("run"), Column("stage"), Column("state"), Column("step", ",d"), Column("of", ",d"),
        Column("done", ".0%"), Column("per s", ",.0f", keys=("per_s",)), Column("unit"),
        Column("s left", ",.0f", keys=("left_s",)), Column("note"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [_name(of.root, place), of.stage, of.state, of.step, *_figures(of), of.note]
        for run in runs
        for of in run.stages
    ]
    return Listing("stages", f"stages of {place}", columns, rows)


def _figures(of: StageStatus) -> list[Cell]:
    """`of`, `done`, `per s`, `unit` and `s left`: of a call that works, and of an unfinished one how far it was."""
    if of.activity is None or of.state in ("not started", "done", "outdated"):
        return [None] * 5
    figures, works = of.activity["figures"], of.state == "running"
    done = figures["done"] / figures["total"] if figures["done"] is not None and figures["total"] else None
    left = None
    if works and figures["left_s"] is not None:
        left = max(figures["left_s"] - age(of.activity["at"]), 0.0)
    return [figures["steps"], done, figures["per_s"] if works else None, figures["unit"], left]


def _leases(runs: list[RunStatus], place: str) -> Listing:
    columns = [
        Column("run"), Column("stage"), Column("holder"), Column("since"),
        Column("s since its last sign", ",.0f", keys=("silent_s",)),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [_name(of.root, place), of.stage, of.holder, *_times(of)]
        for run in runs
        for of in run.stages
        if of.holder is not None
    ]
    return Listing("leases", "leases that are held", columns, rows)


def _times(of: StageStatus) -> list[Cell]:
    """Of the call that holds the lease; unknown if the record is of an earlier one, which has ended."""
    if of.activity is None or of.activity["ended"] is not None:
        return [None, None]
    return [of.activity["since"], max(age(of.activity["at"]), 0.0)]


def _checkpoints(runs: list[RunStatus], place: str) -> Listing:
    columns = [Column("run"), Column("step", ",d"), Column("written"), Column("s ago", ",.0f", keys=("age_s",))]
    now = datetime.now(UTC)
    rows: list[list[Cell]] = [
        [_name(run.root, place), run.checkpoint.step, run.written.isoformat(timespec="seconds"),
         max((now - run.written).total_seconds(), 0.0)]
        for run in runs
        if run.checkpoint is not None and run.written is not None
    ]  # fmt: skip
    return Listing("checkpoints", "newest checkpoints", columns, rows)


def _tracked(runs: list[RunStatus], place: str) -> Listing:
    columns = [
        Column("run"),
        Column("tracker"),
        Column("place"),
        Column("id"),
        Column("curves to step", ",d", ("step",)),
    ]
    rows: list[list[Cell]] = [
        [_name(run.root, place), tracker, sent.place, sent.run, sent.step]
        for run in runs
        for tracker, sent in run.tracked.items()
    ]
    return Listing("tracked", "tracked runs", columns, rows)


def _name(root: str, place: str) -> str:
    """A run within `place`: a version by its path there."""
    return root.removeprefix(place.rstrip("/")).strip("/") or root.rstrip("/").rsplit("/", 1)[-1]
