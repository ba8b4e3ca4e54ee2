"""The AUC and the accuracy of predicted classes, with 95 % intervals over nodes, after DeLong et al. (1988).

A figure comes with the influence of each node: by how much the figure would move with that node drawn once more. The
sum of their squares is its variance; for the AUC of two classes it is DeLong's. Differences of influences give that of
the difference of two figures of the same nodes, in which what is hard about a node cancels out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twhin_core.evaluation.logistic import shares_below
from twhin_core.ranking.queries import Floats, Ints

AUC, ACCURACY = "auc", "accuracy"
NORMAL_95 = 1.959964
"""Standard deviations to either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A figure."""

    value: float
    influence: Floats
    """[nodes]"""

    @property
    def interval(self) -> list[float]:
        """[low, high], within 0 and 1."""
        return [float(of) for of in np.clip(self._bounds(), 0, 1)]

    def above(self, other: Estimate) -> list[float]:
        """[difference, low, high] of this figure less another one of the same nodes."""
        of = Estimate(self.value - other.value, self.influence - other.influence)
        return [of.value, *(float(bound) for bound in np.clip(of._bounds(), -1, 1))]

    def _bounds(self) -> list[float]:
        reach = NORMAL_95 * float(np.sqrt(np.square(self.influence).sum()))
        return [self.value - reach, self.value + reach]


def estimates(log_odds: Floats, label: Ints, classes: Ints) -> dict[str, Estimate]:
    """Both figures, by name.

    Args:
        log_odds: [n, classes] the logarithm of each class's probability; the greatest is predicted, of equals the
            first.
        label: [n]
        classes: those with an AUC of their own against all others, of which the mean is taken; each has nodes, and not
            all. Of two, either has the same one.
    """
    right = (log_odds.argmax(1) == label).astype(np.float64)
    of_classes = [_auc(log_odds[:, each], label == each) for each in classes.tolist()]
    mean = Estimate(
        float(np.mean([of.value for of in of_classes])), np.mean([of.influence for of in of_classes], axis=0)
    )
    return {AUC: mean, ACCURACY: Estimate(float(right.mean()), _influence(right))}


def _auc(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> Estimate:
    """How often a positive scores higher than a negative; a tie counts half."""
    influence = np.empty(len(scores))
    positive, negative = scores[is_positive], scores[~is_positive]
    placed = shares_below(positive, negative)
    influence[is_positive] = _influence(placed)
    influence[~is_positive] = _influence(1 - shares_below(negative, positive))
    return Estimate(float(placed.mean()), influence)


def _influence(values: Floats) -> Floats:
    """That of each value on the mean of all."""
    count = len(values)
    found: Floats = (values - values.mean()) / np.sqrt(count * max(count - 1, 1))
    return found
