"""The losses of both sides at once on a CPU: a thread takes one side, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from twhin_core.model.threads import map_in_threads
from twhin_core.schema import SIDES, Side

SideLoss = Callable[[Side, Sequence[Tensor]], Tensor]
"""The loss of one side, a scalar, from the rows of all gathers."""


def are_worthwhile(device: torch.device) -> bool:
    """Whether there are threads to spare for it."""
    return device.type == "cpu" and torch.is_grad_enabled() and torch.get_num_threads() > 1


def side_losses(loss: SideLoss, rows: Sequence[Tensor], parameters: Sequence[Tensor], scale: float) -> Sequence[Tensor]:
    """The losses of lhs and rhs, with the gradients of `rows` and `parameters`.

    Args:
        rows: of each gather, [n, dim].
        parameters: all others that `loss` depends on.
        scale: the factor of either loss in what is differentiated, so that gradients need not be multiplied by it.
    """
    # autograd.Function is untyped.
    found: Sequence[Tensor] = _SideLosses.apply(loss, scale, len(rows), *rows, *parameters)  # type: ignore[no-untyped-call]
    return found


class _SideLosses(torch.autograd.Function):
    """Computes gradients in the forward pass, where the threads are; the backward pass adds the sides up."""

    @staticmethod
    def forward(ctx: Any, loss: SideLoss, scale: float, gathers: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        rows, parameters = inputs[:gathers], inputs[gathers:]
        is_low, low = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def take(side: Side) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            with torch.enable_grad(), torch.autocast("cpu", low, enabled=is_low):
                own = [of.detach().requires_grad_() for of in rows]
                value = loss(side, own)
                factor = torch.full_like(value, scale)
                return value.detach(), torch.autograd.grad(value, [*own, *parameters], factor, allow_unused=True)

        sides = map_in_threads(take, SIDES)
        ctx.gradients, ctx.scale = [of for _, of in sides], scale
        return tuple(value for value, _ in sides)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            of if factor == ctx.scale else [None if one is None else one * (factor / ctx.scale) for one in of]
            for factor, of in zip(factors, ctx.gradients, strict=True)
        ]
        return None, None, None, *map(_sum, *scaled)


def _sum(lhs: Tensor | None, rhs: Tensor | None) -> Tensor | None:
    if lhs is None or rhs is None:
        return rhs if lhs is None else lhs
    return lhs + rhs
