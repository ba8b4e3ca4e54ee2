"""The prior of candidates as one more coordinate of their vectors.

score = ⟨query, answer⟩ + prior = ⟨(query, 1), (answer, prior)⟩, where prior = weight · temperature · log p(candidate).
"""

from __future__ import annotations

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
        self._weight = (scorer.prior.detach() * scorer.temperature).cpu()
        self._frequencies, self._offsets = frequencies, frequencies.share_offsets(schema.rows_of_ends)

    def column(self, side: Side, rel: int) -> Column:
        """The priors of the candidates for `side` of a relation; 0 if the side has none."""
        group, weight = end(np.array([rel]), side), float(self._weight[rel, SIDES.index(side)])
        return lambda rows: weight * torch.from_numpy(self._frequencies.log_shares(group, rows, self._offsets))

    def of_counts(self, side: Side, rel: int, counts: Ints) -> Tensor:
        """The priors of candidates that have `counts` training edges on that side: int64 [n] → float32 [n]."""
        group, weight = end(np.array([rel]), side), float(self._weight[rel, SIDES.index(side)])
        return weight * torch.from_numpy(log_shares(counts, self._offsets[group]))

    def rows(self, side: Side, rel: int, rows: Rows) -> Rows:
        """The candidates' vectors [size, dim] with their priors: [size, dim + 1]. `side`: one of `sides`."""
        return WithColumn(rows, self.column(side, rel))
