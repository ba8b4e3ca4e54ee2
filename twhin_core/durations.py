"""How long the stages of a run worked, when they ended and on which machine: `durations/<stage>.json`."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypedDict

from twhin_core import limits, storage
from twhin_core.output import Cell, Column, Listing
from twhin_core.progress import log
from twhin_core.records import find_whole
from twhin_core.sizes import readable

FOLDER = "durations"
STAGES = ("prepare", "train", "evaluate", "export", "recommend")


class Duration(TypedDict):
    """The work of a stage; calls that find it done do not count."""

    seconds: float
    machine_seconds: float
    """Times the machines that worked together."""
    ended: str
    """ISO 8601, UTC."""
    machine: str
    """The name of the first rank's machine."""
    cores: int
    """CPU cores that it may use."""
    memory: int
    """Bytes that it may use."""
    gpus: list[str]
    """The names of its GPUs, as far as the stage could use them."""


@contextlib.contextmanager
def measured(
    root: str, stage: str, since: float | None = None, resumes: bool = False, machines: int = 1
) -> Iterator[None]:
    """Records how long the block works, also if it raises, so that a stopped stage can be resumed.

    The caller holds the lease of the stage.

    Args:
        since: `time.monotonic()` when the work began; by default, now.
        resumes: whether the block goes on with the work of earlier ones, whose time then counts too.
        machines: how many work on it together.
    """
    started = time.monotonic() if since is None else since
    earlier = _read(root, stage) if resumes else None
    try:
        yield
    finally:
        seconds = time.monotonic() - started
        log.info("%s: took %s", stage, in_words(seconds))
        storage.write_json(
            _url(root, stage),
            Duration(
                seconds=round(seconds + (earlier["seconds"] if earlier is not None else 0.0), 3),
                machine_seconds=round(
                    seconds * machines + (machine_seconds(earlier) if earlier is not None else 0.0), 3
                ),
                ended=datetime.now(UTC).isoformat(timespec="seconds"),
                machine=platform.node(),
                cores=limits.cores(),
                memory=limits.memory(),
                gpus=_gpus(),
            ),
        )


def read_durations(root: str) -> dict[str, Duration]:
    """The durations of the stages that have worked, in their order."""
    found = {stage: _read(root, stage) for stage in STAGES}
    return {stage: duration for stage, duration in found.items() if duration is not None}


def list_durations(root: str) -> Listing:
    rows: list[list[Cell]] = [
        [stage, of["seconds"], of["ended"], of["machine"], of["cores"], describe_memory(of), describe_gpus(of)]
        for stage, of in read_durations(root).items()
    ]
    columns = [
        Column("stage"), Column("seconds", ",.1f"), Column("ended"), Column("machine"), Column("cores", "d"),
        Column("memory"), Column("GPUs", keys=("gpus",)),
    ]  # fmt: skip
    return Listing("durations", "seconds per stage", columns, rows)


def in_words(seconds: float) -> str:
    """For readers: 4.2 s, 3 min 20 s, 5 h 7 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def machine_seconds(of: Duration) -> float:
    """Seconds times machines. A record of an earlier version counts one machine."""
    return of.get("machine_seconds", of["seconds"])


def describe_memory(of: Duration) -> str:
    """In words; empty in a record of an earlier version."""
    return readable(of["memory"]) if "memory" in of else ""


def describe_gpus(of: Duration) -> str:
    """Such as `8 × NVIDIA H200`; empty if the stage had none."""
    found = Counter(of.get("gpus", []))
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in found.items())


def _gpus() -> list[str]:
    """The GPUs of this process. Without torch in it there are none that it could use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _read(root: str, stage: str) -> Duration | None:
    found: Duration | None = find_whole(_url(root, stage), f"{stage}: its time starts anew")
    return found


def _url(root: str, stage: str) -> str:
    return storage.join(root, FOLDER, f"{stage}.json")
