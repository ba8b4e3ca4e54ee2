"""The metrics of training, and the files they go to: `training/metrics.jsonl` and TensorBoard's event files."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

import torch

from twhin_core import storage
from twhin_core.checksum import seal_line, unseal_lines
from twhin_core.distributed.ranks import Ranks
from twhin_core.progress import log
from twhin_core.tracking.stream import Sink
from twhin_core.training.tensorboard import EventFiles

SECONDS_BETWEEN_WRITES = 10.0

T = TypeVar("T")


class MetricsLog:
    """One JSON object per line with its checksum, ordered by step, and the same figures as TensorBoard scalars.

    Every rank keeps the lines; the first rank writes them. The file is rewritten each time, because an object store
    cannot append.
    """

    def __init__(self, root: str, step: int, ranks: Ranks, others: Sequence[Sink] = ()) -> None:
        """Continues the log of a run that is at `step`; drops the lines of later steps, which a killed run lost.

        Lines that are not whole are left out, with a warning. `others` get the new figures of the first rank too.
        """
        self._url = storage.join(root, "training/metrics.jsonl")
        self._lines: list[str] = []
        if storage.exists(self._url):
            lines = unseal_lines(storage.read_bytes(self._url), self._url)
            self._lines = [seal_line(line) for line in lines if line["step"] <= step]
        elif step and ranks.is_first:
            log.warning("train: %s is missing: the figures of the steps before %d are lost", self._url, step + 1)
        self._is_first = ranks.is_first
        self._sinks: list[Sink] = [EventFiles(root, step), *others] if ranks.is_first else []
        self._written = time.monotonic()

    def add(self, step: int, epoch: int, **figures: float) -> None:
        self._lines.append(seal_line({"step": step, "epoch": epoch, **figures}))
        for sink in self._sinks:
            sink.add(step, {"epoch": epoch, **figures})
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write()

    def past(self, name: str) -> Iterator[tuple[int, float]]:
        """(step, value) of a figure so far."""
        for line in map(json.loads, self._lines):
            if name in line:
                yield line["step"], line[name]

    def write(self) -> None:
        """Brings the files up to date. If the disk is full, training continues and the next write tries again."""
        self._written = time.monotonic()
        if not self._is_first:
            return
        try:
            storage.write_text(self._url, "".join(f"{line}\n" for line in self._lines))
        except OSError as error:
            log.error("train: %s could not be written and will be tried again: %s", self._url, error)
        for sink in self._sinks:
            sink.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.write()
        for sink in self._sinks:
            sink.close()


class Interval:
    """Mean loss, speed and share of time spent waiting for data since the last line, and the speed of the run so far.

    The loss stays on the device until the interval is closed.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.figures: dict[str, float] = {}
        self._edges_before = 0
        self._run_started = time.monotonic()
        self._restart()

    def _restart(self) -> None:
        self._loss = torch.zeros((), device=self._ranks.device)
        self._edges = 0
        self._waited = 0.0
        self._started = time.monotonic()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields from `batches` and measures how long this rank waits for each."""
        source = iter(batches)
        while True:
            started = time.monotonic()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._waited += time.monotonic() - started
            yield batch

    def add(self, loss: torch.Tensor, edges: int) -> None:
        """Adds a step of `edges` edges over all ranks; `loss` is this rank's part of its mean loss."""
        self._loss += loss * edges
        self._edges += edges

    def close(self) -> dict[str, float]:
        """Ends the interval and returns its figures. A collective."""
        seconds = time.monotonic() - self._started
        self.figures = {
            "loss": self._ranks.sum(self._loss) / self._edges,
            "edges_per_s": self._edges / seconds,
            "data_wait": self._waited / seconds,
        }
        self._edges_before += self._edges
        self._restart()
        return self.figures

    def speed(self) -> float:
        """Edges per second over all ranks since this process began training, validation and checkpoints included."""
        return (self._edges_before + self._edges) / (time.monotonic() - self._run_started)


def peak_memory(device: torch.device) -> str:
    """The peak memory of this process as text; on a GPU, that of the device too."""
    parts = [f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of main memory"]
    if device.type == "cuda":
        parts.append(f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB of the GPU's")
    return ", ".join(parts)
