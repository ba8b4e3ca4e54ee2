"""Stops a run whose loss is not finite and names the step where that began."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from twhin_core.checkpoints.checkpoint import Position
from twhin_core.errors import UserError

STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 100}
"""On a GPU, each check synchronizes with the device."""

MOST_RELATIONS = 10


class LossGuard:
    """Checks the loss of every step, immediately or some steps later, and finds the first that is not finite."""

    def __init__(self, relations_after: Callable[[Position], list[str]], steps_between_checks: int) -> None:
        """`relations_after`: names of the relations in the batch that this rank takes after a position."""
        self._relations_after, self._steps_between_checks = relations_after, steps_between_checks
        self._losses: list[torch.Tensor] = []
        self._positions: list[Position] = []

    def add(self, loss: torch.Tensor, before: Position) -> None:
        """Adds the loss of the step after the position `before`. May raise like `check`."""
        self._losses.append(loss)
        self._positions.append(before)
        if len(self._losses) >= self._steps_between_checks:
            self.check()

    def check(self) -> None:
        """Raises UserError for the first step whose loss was not finite."""
        for loss, before in zip(self._values(), self._positions, strict=True):
            if not math.isfinite(loss):
                names = self._relations_after(before)
                more = len(names) - MOST_RELATIONS
                named = ", ".join(names[:MOST_RELATIONS]) + (f" and {more} more" if more > 0 else "")
                raise UserError(
                    f"the loss is {loss} at step {before.step + 1}, in a batch of the relations {named}; lower the "
                    "learning rates"
                )
        self._losses.clear()
        self._positions.clear()

    def _values(self) -> list[float]:
        return torch.stack(self._losses).tolist() if self._losses else []
