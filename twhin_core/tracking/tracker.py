"""What a tracker can do, whichever it is, and the two ways in which it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from twhin_core.errors import TwhinError, UserError

FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
"""How the last stage ended."""


class Refused(UserError):
    """The tracker answers that the request is wrong: another key, URL or name is needed."""


class Gone(TwhinError):
    """The tracker no longer has the run that was tracked."""


TRAINING = "training."
"""What a tracker puts before the names of a point's figures."""


class Point(NamedTuple):
    """Figures of training at a step, named as in `training/metrics.jsonl`."""

    step: int
    time: float
    """Seconds since the epoch."""
    figures: Mapping[str, float]


class Tracker(Protocol):
    """One run in a tracker.

    Every method may raise `Unreachable`, on which nothing of the run depends, or `Refused`.
    """

    name: str
    """The key in the section `tracking`, which errors name."""

    @property
    def place(self) -> str:
        """Where runs are tracked; a run that was tracked elsewhere is tracked anew."""
        ...

    def create(self, title: str, tags: Mapping[str, str]) -> str:
        """Creates the tracked run and returns its id."""
        ...

    def resume(self, run: str) -> None:
        """Continues a tracked run. Raises Gone if it was deleted."""
        ...

    def set_parameters(self, new: Mapping[str, str], changed: Mapping[str, str]) -> None:
        """Adds parameters, and gives those in `changed`, which were sent before, another value."""
        ...

    def add_points(self, points: Sequence[Point]) -> None:
        """Appends to the curves; the steps do not fall."""
        ...

    def set_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """The final figures of the checkpoint of `step`."""
        ...

    def add_file(self, path: Path) -> None:
        """Keeps a file by its name, in place of an earlier one."""
        ...

    def end(self, how: str) -> None:
        """Says how the stage ended: `finished`, `failed` or `stopped`. A later stage may resume the run."""
        ...
