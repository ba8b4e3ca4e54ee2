"""Optimizers that update only the rows of a step, as the fused kernels do."""

from __future__ import annotations

import torch
from torch import Tensor

from twhin_core.config.optimizer import Adam, Optimizer
from twhin_core.training.frozen_rows import FrozenRows
from twhin_core.training.schedules import rate

STATE_NAMES = {
    "sgd": (),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adagrad": ("momentum1",),
    "rowwise_adagrad": ("momentum1",),
    "spherical_adagrad": ("momentum1",),
}
"""The fused kernels' names for the parts of each optimizer's state."""

SMALLEST_EPS = 2.0**-63
"""The root of float32's smallest normal number."""


def positive_eps(eps: float) -> float:
    """`eps` as the kernels take it: never 0, so that a state of 0 divides a gradient of 0 to 0 and not to NaN.

    `SMALLEST_EPS` changes no other quotient: the square of a gradient below it is 0 in float32, and every other state
    has a root that absorbs it.
    """
    return max(eps, SMALLEST_EPS)


def state_shapes(optimizer: Optimizer, rows: int, columns: int) -> list[tuple[int, ...]]:
    """The shapes of those parts for a table [rows, columns]."""
    shape = (rows,) if optimizer.name in ("rowwise_adagrad", "spherical_adagrad") else (rows, columns)
    return [shape] * len(STATE_NAMES[optimizer.name])


class RowOptimizer:
    """The optimizer of a table that this process holds whole; docs/numerics.md gives the formulas."""

    def __init__(self, table: str, optimizer: Optimizer, weight: Tensor, state: list[Tensor] | None = None) -> None:
        """`state`: existing tensors to keep the state in; None allocates zeros."""
        self._table, self._optimizer, self._weight = table, optimizer, weight
        if state is None:
            shapes = state_shapes(optimizer, *weight.shape)
            state = [torch.zeros(shape, device=weight.device) for shape in shapes]
        self._state = state
        self._eps = positive_eps(optimizer.choice.model_dump().get("eps", 0.0))
        self.steps_before = 0
        """Steps of an earlier version that the state includes."""
        self._frozen: Tensor | None = None

    def freeze(self, frozen: FrozenRows) -> None:
        """Leaves frozen rows, and their state, as they are from now on."""
        self._frozen = frozen.of(self._weight)

    @torch.no_grad()
    def update(self, rows: Tensor, values: Tensor, gradient: Tensor, step: int) -> None:
        """Updates `rows` in step `step`, counted from 1.

        Args:
            rows: int64 [n], without repetition.
            values: float32 [n, dim], the current rows; may be overwritten.
            gradient: float32 [n, dim].
        """
        if self._frozen is not None:
            free = (~self._frozen[rows]).nonzero().squeeze(1)
            rows, values, gradient = rows[free], values[free], gradient[free]
        lr = rate(self._optimizer, step)
        if self._optimizer.name == "sgd":
            values.sub_(gradient, alpha=lr)
        elif self._optimizer.name == "adam":
            self._adam(rows, values, gradient, lr, self.steps_before + step)
        elif self._optimizer.name == "spherical_adagrad":
            self._spherical_adagrad(rows, values, gradient, lr)
        else:
            self._adagrad(rows, values, gradient, lr)
        self._weight.index_copy_(0, rows, values)

    def _adagrad(self, rows: Tensor, values: Tensor, gradient: Tensor, lr: float) -> None:
        (total,) = self._state
        squares = total.index_select(0, rows)
        if total.dim() == 1:
            length = torch.linalg.vector_norm(gradient, dim=1)
            squares.addcmul_(length, length, value=1 / gradient.shape[1])
        else:
            squares.addcmul_(gradient, gradient)
        total.index_copy_(0, rows, squares)
        root = squares.sqrt_().add_(self._eps)
        values.addcdiv_(gradient, root.unsqueeze(1) if total.dim() == 1 else root, value=-lr)

    def _spherical_adagrad(self, rows: Tensor, values: Tensor, gradient: Tensor, lr: float) -> None:
        (total,) = self._state
        along = torch.linalg.vecdot(gradient, values).unsqueeze(1)
        tangent = torch.addcmul(gradient, along, values, value=-1)
        squares = total.index_select(0, rows).add_(tangent.square().sum(1))
        total.index_copy_(0, rows, squares)
        root = squares.sqrt_().add_(self._eps)
        values.addcdiv_(tangent, root.unsqueeze(1), value=-lr)
        values.div_(torch.linalg.vector_norm(values, dim=1, keepdim=True))

    def _adam(self, rows: Tensor, values: Tensor, gradient: Tensor, lr: float, step: int) -> None:
        settings = self._optimizer.choice
        assert isinstance(settings, Adam)
        moments = []
        for moment, beta, target in zip(self._state, settings.betas, (gradient, gradient.square()), strict=True):
            moved = moment.index_select(0, rows).lerp_(target, 1 - beta)
            moment.index_copy_(0, rows, moved)
            moments.append(moved / (1 - beta**step))
        values.addcdiv_(moments[0], moments[1].sqrt_().add_(self._eps), value=-lr)

    def state(self) -> dict[str, Tensor]:
        """The state under the fused kernels' names, so that checkpoints fit both."""
        prefix = f"optimizer.tables.embeddings.{self._table}.weight.{self._table}"
        names = STATE_NAMES[self._optimizer.name]
        return {f"{prefix}.{name}": value for name, value in zip(names, self._state, strict=True)}
