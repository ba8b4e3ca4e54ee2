"""Whether what lowers the loss of one relation also lowers the loss of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from twhin_core.model.batch import Batch
from twhin_core.model.twhin import Twhin

STEP = 0.01
"""The length of a step relative to that of all rows: short for a difference of first order, and long for float32."""


def falls_along(twhin: Twhin, batch: Batch, target: int, spherical: set[str]) -> Tensor:
    """How much each relation's loss falls as the rows take a step down the gradient of the target's: [relations].

    Positive where the two gradients point the same way, on the rows that they share. The loss is measured a step ahead
    and a step behind, so that its curvature cancels, and the cost does not grow with the number of relations. The model
    stays as it is.

    Args:
        batch: edges of all relations, with lookups.
        spherical: tables whose rows keep length 1, and so move at right angles to themselves.
    """
    assert batch.lookups is not None
    with torch.no_grad():
        rows = twhin.looked_up(batch.lookups).float()
    rows.requires_grad_()
    (gradient,) = torch.autograd.grad(twhin.losses_of_relations(batch, rows)[target], rows)
    with torch.no_grad():
        counts = zip(twhin.table_names, batch.lookups.length_per_key(), strict=True)
        on_sphere = torch.cat([torch.full((count, 1), float(name in spherical)) for name, count in counts])
        radial = (gradient * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True) * rows
        down = on_sphere.to(rows.device) * radial - gradient
        step = down * (STEP * rows.norm() / down.norm().clamp(min=torch.finfo(down.dtype).tiny))
        return twhin.losses_of_relations(batch, rows - step) - twhin.losses_of_relations(batch, rows + step)
