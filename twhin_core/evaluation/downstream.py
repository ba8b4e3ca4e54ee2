"""What becomes of a model that was fitted to an earlier version's vectors when it gets this version's.

The model is a logistic regression on the products of the vectors of two nodes, which tells edges from pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from twhin_core.evaluation.logistic import auc, fit

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 20
"""Edges, and pairs, in either half; with fewer there is nothing to fit or to measure."""
RIDGE = 1e-3
"""The weight of the squared coefficients beside the mean loss."""


class Carried(NamedTuple):
    """The AUC of the fitted model on the half that it was not fitted to."""

    before: float
    """With the vectors of the version that it was fitted to."""
    now: float
    """With this version's."""


def carry_over(before: Tensor, now: Tensor, is_edge: npt.NDArray[np.bool_], rng: np.random.Generator) -> Carried | None:
    """Fits to half of the earlier features and scores the other half in both versions; None if there are too few.

    Args:
        before: the earlier features, float64 [n, dim]; `now`: this version's, of the same pairs.
    """
    import torch

    order = rng.permutation(len(is_edge))
    fitted, scored = order[: len(order) // 2], order[len(order) // 2 :]
    if any(np.bincount(is_edge[half], minlength=2).min() < FEWEST for half in (fitted, scored)):
        return None
    mean, scale = before[fitted].mean(0), before[fitted].std(0).clamp(min=1e-12)
    model = fit((before[fitted] - mean) / scale, torch.from_numpy(is_edge[fitted]).long(), 2, RIDGE)
    return Carried(
        *(auc(model.logits((of[scored] - mean) / scale)[:, 1].numpy(), is_edge[scored]) for of in (before, now))
    )
