"""Sends the figures of training to trackers from a thread, so that training waits for none of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds between attempts; after a failed one, twice as many as before, up to the longest."""


class Sink(Protocol):
    """Where the figures of training go, beside `training/metrics.jsonl`."""

    def add(self, step: int, figures: Mapping[str, float]) -> None: ...

    def flush(self) -> None:
        """Called every few seconds, and before each checkpoint."""
        ...

    def close(self) -> None: ...


class Receiver(Protocol):
    """What a stream passes figures on to."""

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Keeps figures until they are sent."""
        ...

    def send(self) -> bool:
        """Sends what was kept; from another thread than `add`. Returns whether that worked."""
        ...


class Stream:
    """A `Sink` that passes figures on to receivers."""

    def __init__(self, receivers: Sequence[Receiver]) -> None:
        self._receivers = receivers
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._send, name="tracking", daemon=True)
        if receivers:
            self._thread.start()

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        for receiver in self._receivers:
            receiver.add(step, figures)

    def flush(self) -> None:
        """The thread has its own rhythm."""

    def close(self) -> None:
        """Begins to send no more; what was kept is left to the end of the stage."""
        self._ends.set()

    def wait(self) -> None:
        """After `close`, until nothing is being sent."""
        if self._receivers:
            self._thread.join()

    def _send(self) -> None:
        pause = PAUSE
        while not self._ends.wait(pause):
            have_sent = [receiver.send() for receiver in self._receivers]
            pause = PAUSE if all(have_sent) else min(2 * pause, LONGEST_PAUSE)
