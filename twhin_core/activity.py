"""What a process says of the stage that it works on: `<root>/.leases/<stage>.activity`, beside the stage's lease.

The lease says who may work, this record how far the work is and how the last call ended. `twhin status` reads both.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypedDict

from twhin_core import lease, storage
from twhin_core.errors import Preempted, StorageError, one_line
from twhin_core.progress import Figures, figures
from twhin_core.records import find_whole

WRITTEN_EVERY = 10.0
"""Seconds."""


class Activity(TypedDict):
    """The record of a call. Times are ISO 8601, UTC, by the clock of the machine that worked."""

    since: str
    at: str
    """When this was written."""
    ended: str | None
    """`done`, `stopped` (by a signal) or `failed`; None while it works, and forever if it was killed."""
    error: str | None
    """The line that it ended with."""
    figures: Figures
    """How far it was."""


@contextlib.contextmanager
def noted(root: str, stage: str) -> Iterator[None]:
    """Writes the record of `stage` now, every `WRITTEN_EVERY` seconds and at the end. The caller holds its lease."""
    record = Activity(since=_now(), at=_now(), ended=None, error=None, figures=figures())
    stop = threading.Event()
    thread = threading.Thread(target=_write_until, args=(root, stage, record, stop), name="activity", daemon=True)
    _write(root, stage, record)
    thread.start()
    try:
        yield
    except StorageError:
        raise  # what could not be written now would only be tried for as long again
    except BaseException as error:
        is_failure = isinstance(error, Exception) and not isinstance(error, Preempted)
        record["ended"], record["error"] = "failed" if is_failure else "stopped", one_line(error)
        raise
    else:
        record["ended"] = "done"
    finally:
        stop.set()
        if record["ended"] is not None:
            thread.join()  # or it would write that the stage works
            _write(root, stage, record)


def read_activity(root: str, stage: str) -> Activity | None:
    """The record of the last call that worked on `stage`, if there is a whole one."""
    found: Activity | None = find_whole(_url(root, stage))
    return found


def age(when: str) -> float:
    """Seconds since a time of a record."""
    return (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()


def _write_until(root: str, stage: str, record: Activity, stop: threading.Event) -> None:
    while not stop.wait(WRITTEN_EVERY):
        _write(root, stage, record)


def _write(root: str, stage: str, record: Activity) -> None:
    """Nothing depends on the record: one that cannot be written is left out."""
    record["at"] = _now()
    if record["ended"] is None:
        record["figures"] = figures()
    with contextlib.suppress(StorageError):
        if storage.exists(storage.join(root, lease.FOLDER, stage)):  # or the folder was removed, and would be back
            storage.write_json(_url(root, stage), record)


def _url(root: str, stage: str) -> str:
    return storage.join(root, lease.FOLDER, f"{stage}.activity")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
