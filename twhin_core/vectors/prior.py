"""The prior of candidates as one more coordinate of their vectors.

score = ⟨query, answer⟩ + prior = ⟨(query, 1), (answer, prior)⟩, where prior = weight · temperature · log p(candidate).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from twhin_core.data.frequencies import Frequencies, end, log_shares
from twhin_core.model.scorer import Scorer
from twhin_core.schema import SIDES, Schema, Side
from twhin_core.vectors.rows import Ints, Rows, WithColumn

Column = Callable[[Ints], Tensor]
"""The priors of rows of a table: int64 [n] → float32 [n]."""


class Prior:
    """What `model.prior` adds to the scores of candidates."""

    def __init__(self, scorer: Scorer, schema: Schema, frequencies: Frequencies) -> None:
        """
        Args:
            scorer: has the weights.
            schema: with the tables that were trained.
            frequencies: of the training edges.
        """
        assert scorer.prior is not None
        self.sides = scorer.prior_sides
        self._weights, self._temperature = scorer.prior.detach().cpu(), scorer.temperature
        self._frequencies, self._offsets = frequencies, frequencies.share_offsets(schema.rows_of_ends)

    def weight(self, side: Side, rel: int) -> float:
        """The weight of log p for that side of a relation; 0 if the side has none."""
        return float(self._weights[rel, SIDES.index(side)])

    def with_weight(self, weight: float | None) -> Prior:
        """The same with another weight for all relations and `sides`; None changes nothing."""
        if weight is None:
            return self
        other = copy.copy(self)
        of_sides = torch.tensor([weight * (side in self.sides) for side in SIDES], dtype=torch.float64)
        other._weights = of_sides.expand_as(self._weights)
        return other

    def column(self, side: Side, rel: int) -> Column:
        """The priors of the candidates for `side` of a relation; 0 if the side has none."""
        group, factor = end(np.array([rel]), side), self._temperature * self.weight(side, rel)
        return lambda rows: factor * torch.from_numpy(self._frequencies.log_shares(group, rows, self._offsets))

    def of_counts(self, side: Side, rel: int, counts: Ints) -> Tensor:
        """The priors of candidates that have `counts` training edges on that side: int64 [n] → float32 [n]."""
        group, factor = end(np.array([rel]), side), self._temperature * self.weight(side, rel)
        return factor * torch.from_numpy(log_shares(counts, self._offsets[group]))

    def rows(self, side: Side, rel: int, rows: Rows) -> Rows:
        """The candidates' vectors [size, dim] with their priors: [size, dim + 1]. `side`: one of `sides`."""
        return WithColumn(rows, self.column(side, rel))
