"""Validation loss, and early stopping when it no longer falls."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from twhin_core.config import EarlyStopping, Model
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError
from twhin_core.schema import Schema
from twhin_core.training.batches import Batches
from twhin_core.training.build import TrainableModel
from twhin_core.training.compared_edges import number_of_target


def target_alone(model: Model, schema: Schema, device: torch.device) -> Tensor | None:
    """What `validation_loss` counts of a model with a target; None without one."""
    if model.target is None:
        return None
    counted = torch.zeros(len(schema.relations), device=device)
    counted[number_of_target(model, schema)] = 1.0
    return counted


def validation_loss(
    model: TrainableModel, batches: Batches, num_steps: int, ranks: Ranks, counted: Tensor | None = None
) -> float:
    """Mean loss over the first `num_steps` batches in data set order, with the same negatives every time.

    Args:
        counted: float32 [relations], 1 for relations whose edges count, 0 for others; None counts all.

    Raises:
        UserError: no edge there counts.
    """
    total, edges = torch.zeros((), device=ranks.device), 0
    counted_edges = torch.zeros((), device=ranks.device, dtype=torch.float64)
    model.model.eval()
    with torch.no_grad():
        for count, batch in enumerate(batches.in_order()):
            if count == num_steps:
                break
            made = batch.to(ranks.device)
            if counted is not None:
                made = made.weighted(counted)
                counted_edges += (made.queries["rhs"].weight > 0).sum()  # neither padding nor left out
            total += model.model(made) * batch.step_edges
            edges += batch.step_edges
    model.model.train()
    if counted is None:
        return ranks.sum(total) / edges
    if not (all_counted := ranks.sum(counted_edges)):
        raise UserError(
            f"training.num_eval_steps: the first {num_steps} validation batches have no edge of model.target; raise it"
        )
    return ranks.sum(total) / all_counted


class Patience:
    """Watches a figure that should fall; `is_over` once it has not fallen for `patience` validations in a row."""

    def __init__(self, settings: EarlyStopping | None, past: Iterable[tuple[int, float]]) -> None:
        """`past`: (step, figure) of earlier validations; a resumed run then stops where an uninterrupted one does."""
        self._patience = math.inf if settings is None else settings.patience
        self._best, self.best_step, self._since = math.inf, 0, 0
        for step, figure in past:
            self.add(step, figure)

    def add(self, step: int, figure: float) -> None:
        if figure < self._best:
            self._best, self.best_step, self._since = figure, step, 0
        else:
            self._since += 1

    @property
    def is_over(self) -> bool:
        return self._since >= self._patience
