"""A logistic regression with a penalty on the squared coefficients, for two classes or more, and the AUC of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Scores = npt.NDArray[np.float64]

STEPS = 300


class Logistic(NamedTuple):
    """A fitted model. For two classes there is one column, of the second."""

    coefficients: Tensor
    """float64 [dim, columns]"""
    intercept: Tensor
    """float64 [columns]"""

    def logits(self, features: Tensor) -> Tensor:
        """float64 [n, dim] → float64 [n, classes], up to a number that is the same for all classes."""
        import torch

        found = features @ self.coefficients + self.intercept
        return torch.cat([torch.zeros_like(found), found], 1) if found.shape[1] == 1 else found


def fit(features: Tensor, label: Tensor, classes: int, ridge: float) -> Logistic:
    """Minimizes the mean of -log p(label) plus `ridge` times the sum of the squared coefficients.

    Args:
        features: float64 [n, dim], each of about unit variance.
        label: int64 [n], in [0, classes).
    """
    import torch

    columns = 1 if classes == 2 else classes
    coefficients = torch.zeros(features.shape[1], columns, dtype=torch.float64, requires_grad=True)
    model = Logistic(coefficients, torch.zeros(columns, dtype=torch.float64, requires_grad=True))
    optimizer = torch.optim.LBFGS(list(model), max_iter=STEPS, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = loss(model, features, label) + ridge * coefficients.square().sum()
        value.backward()
        return value

    optimizer.step(objective)
    return Logistic(*(of.detach() for of in model))


def loss(model: Logistic, features: Tensor, label: Tensor) -> Tensor:
    """The mean of -log p(label)."""
    import torch

    return torch.nn.functional.cross_entropy(model.logits(features), label)


def auc(scores: Scores, is_positive: npt.NDArray[np.bool_]) -> float:
    """How often a positive scores higher than a negative; a tie counts half."""
    return float(shares_below(scores[is_positive], scores[~is_positive]).mean())


def shares_below(scores: Scores, among: Scores) -> Scores:
    """[n] of each score, the share of `among` that is lower; a tie counts half."""
    ordered = np.sort(among)
    lower, not_higher = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (lower + not_higher) / (2 * len(ordered))
