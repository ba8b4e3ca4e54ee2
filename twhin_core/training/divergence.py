"""Stops a run whose loss is not finite, and says where that began and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from twhin_core.checkpoints.checkpoint import Position
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.ranks import Ranks, alone
from twhin_core.errors import Diverged
from twhin_core.schema import Schema

STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 100}
"""On a GPU, each check synchronizes with the device."""

MOST_RELATIONS = 10

HEAVY = 1e4
"""Weights from here on are named as the cause: the loss counts such an edge as often as a batch has edges."""


class LossGuard:
    """Checks the loss of every step, immediately or some steps later, and finds the first that is not finite.

    Ranks check together, so that all end after the same step.
    """

    def __init__(
        self, relations_after: Callable[[Position], list[str]], steps_between_checks: int, ranks: Ranks | None = None
    ) -> None:
        """`relations_after`: names of the relations in the batch that this rank takes after a position."""
        self._relations_after, self._steps_between_checks = relations_after, steps_between_checks
        self._ranks = ranks or alone()
        self._losses: list[torch.Tensor] = []
        self._positions: list[Position] = []

    def add(self, loss: torch.Tensor, before: Position) -> None:
        """Adds the loss of the step after the position `before`. A collective, which may raise like `check`."""
        self._losses.append(loss)
        self._positions.append(before)
        if len(self._losses) >= self._steps_between_checks:
            self.check()

    def check(self) -> None:
        """Raises Diverged for the first step whose loss was not finite on any rank, on every rank. A collective."""
        losses = torch.stack(self._losses).tolist() if self._losses else []
        mine = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
        first = self._ranks.smallest(mine)
        if first < len(losses):
            found = self._describe(losses[first], self._positions[first]) if mine == first else None
            raise Diverged(next(filter(None, self._ranks.of_all(found))))
        self._losses.clear()
        self._positions.clear()

    def _describe(self, loss: float, before: Position) -> str:
        names = self._relations_after(before)
        more = len(names) - MOST_RELATIONS
        named = ", ".join(names[:MOST_RELATIONS]) + (f" and {more} more" if more > 0 else "")
        return f"the loss is {loss} at step {before.step + 1}, in a batch of the relations {named}"


def advice(edges: EdgeFiles, schema: Schema) -> str | None:
    """What to change about the weights of the training edges if they can be the cause, else None."""
    heaviest = edges.heaviest()
    if heaviest is not None and heaviest.weight[0] >= HEAVY:
        relation = schema.relations[int(heaviest.rel[0])].name
        return (
            f"an edge of the relation {relation} weighs {heaviest.weight[0]:g}, and weights multiply the loss: correct "
            "it, or bring the weights of the sources near 1"
        )
    largest = max(schema.relations, key=lambda relation: relation.weight)
    if largest.weight >= HEAVY:
        return f"model.relations: {largest.name} has the weight {largest.weight:g}, which multiplies the loss; lower it"
    return None
