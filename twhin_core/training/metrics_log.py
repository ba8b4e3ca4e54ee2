"""`training/metrics.jsonl`: one JSON object a line, in the order of the steps."""

from __future__ import annotations

import json
import math
import time

import torch

from twhin_core import storage
from twhin_core.errors import UserError
from twhin_core.training.ranks import Ranks

SECONDS_BETWEEN_WRITES = 10.0


class MetricsLog:
    """Lines of the whole run. The file is rewritten as a whole, since an object store cannot append."""

    def __init__(self, root: str, step: int) -> None:
        """Continues the log of a run that is at `step`; lines of steps that were lost with a killed run go."""
        self._url = storage.join(root, "training/metrics.jsonl")
        self._lines: list[str] = []
        if storage.exists(self._url):
            lines = storage.read_text(self._url).splitlines()
            self._lines = [line for line in lines if json.loads(line)["step"] <= step]
        self._written = time.monotonic()

    def add(self, step: int, epoch: int, **figures: float) -> None:
        self._lines.append(json.dumps({"step": step, "epoch": epoch, **figures}))
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        storage.write_text(self._url, "".join(f"{line}\n" for line in self._lines))
        self._written = time.monotonic()


class Window:
    """Mean loss and speed since the last line; the loss stays on the device until the window is closed."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.figures: dict[str, float] = {}
        self._restart()

    def _restart(self) -> None:
        self._loss = torch.zeros((), device=self._ranks.device)
        self._edges = 0
        self._started = time.monotonic()

    def add(self, loss: torch.Tensor, edges: int) -> None:
        """A step of `edges` edges over all ranks, of whose mean loss `loss` is this rank's part."""
        self._loss += loss * edges
        self._edges += edges

    def close(self, step: int) -> dict[str, float]:
        """The window's figures; every rank must call it. Raises UserError if the loss is not finite."""
        loss = self._ranks.sum(self._loss) / self._edges
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {step}; lower the learning rates")
        self.figures = {"loss": loss, "edges_per_s": self._edges / (time.monotonic() - self._started)}
        self._restart()
        return self.figures
