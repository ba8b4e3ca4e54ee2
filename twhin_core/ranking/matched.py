"""The vectors and scores of an earlier version for this version's rows and relations.

A matched vector has one more number than the earlier one: 1 if the earlier version does not know the node, else 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from twhin_core.model.scorer import Scorer
from twhin_core.ranking.queries import Ints
from twhin_core.schema import Side
from twhin_core.vectors.prior import Prior
from twhin_core.vectors.rows import Rows, WithColumn

UNKNOWN = -1e30
"""The score of a candidate that the earlier version does not know: below that of any that it knows."""


class MatchedRows:
    """The vectors of an earlier version in the order of this version's rows."""

    def __init__(self, rows: Rows | None, dim: int, path: Path, size: int) -> None:
        """
        Args:
            rows: the earlier vectors [m, dim], or None if the earlier version has no such table.
            path: a file with the earlier row of each row, or -1, as int64 [size]. Read only if there are `rows`.
        """
        self._rows, self._path, self.size, self.dim = rows, path, size, dim + 1

    @property
    def earlier(self) -> Ints | None:
        """int64 [size] the earlier row of each row, or -1; None if the earlier version has no such table."""
        return None if self._rows is None else np.memmap(self._path, np.int64, "r")

    def read(self, start: int, stop: int) -> Tensor:
        return self.gather(np.arange(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        vectors = torch.zeros(len(rows), self.dim)
        vectors[:, -1] = 1
        if self._rows is not None and (all_earlier := self.earlier) is not None:
            earlier = np.asarray(all_earlier[rows])
            known = np.flatnonzero(earlier >= 0)
            found = torch.from_numpy(known)
            vectors[found, :-1] = self._rows.gather(earlier[known])
            vectors[found, -1] = 0
        return vectors


class MatchedScorer(nn.Module):
    """Projects matched vectors as the earlier version's scorer does.

    The last number of a query is `UNKNOWN`, which thereby becomes the score of unknown candidates. If the query's own
    node or relation is unknown, all known candidates score 0.
    """

    def __init__(self, scorer: Scorer, numbers: Tensor) -> None:
        """`numbers`: int64 [relations], the earlier number of each of this version's relations, or -1."""
        super().__init__()
        self._scorer = scorer
        self.numbers: Tensor
        self.register_buffer("numbers", numbers)

    def shares_candidates(self, side: Side) -> bool:
        """See `Scorer.shares_candidates`."""
        return self._scorer.shares_candidates(side)

    def queries(self, side: Side, rel: Tensor, node: Tensor) -> Tensor:
        """rel [...], node [..., dim + 1] → [..., width + 1]."""
        number = self.numbers[rel]
        is_known = (number >= 0) & (node[..., -1] == 0)
        queries = self._scorer.queries(side, number.clamp(min=0), node[..., :-1])
        return torch.cat([queries * is_known[..., None], torch.full_like(node[..., -1:], UNKNOWN)], -1)

    def of_prior(self, rel: Tensor, node: Tensor) -> Tensor:
        """See `Scorer.of_prior`."""
        is_known = (self.numbers[rel] >= 0) & (node[..., -1] == 0)
        return is_known[..., None].to(node.dtype)

    def answers(self, side: Side, rel: Tensor, nodes: Tensor) -> Tensor:
        """rel [...], nodes [..., dim + 1] → [..., width + 1]."""
        answers = self._scorer.answers(side, self.numbers[rel].clamp(min=0), nodes[..., :-1])
        return torch.cat([answers, nodes[..., -1:]], -1)


class MatchedPrior:
    """The earlier version's priors of matched rows; 0 for unknown nodes and relations."""

    def __init__(self, prior: Prior, numbers: Ints) -> None:
        """`numbers`: as for `MatchedScorer`."""
        self._prior, self._numbers, self.sides = prior, numbers, prior.sides

    def rows(self, side: Side, rel: int, rows: Rows) -> Rows:
        """See `Prior.rows`. `rows`: `MatchedRows`."""
        assert isinstance(rows, MatchedRows)
        number = int(self._numbers[rel])
        column = None if number < 0 else self._prior.column(side, number)

        def matched(here: Ints) -> Tensor:
            priors = torch.zeros(len(here))
            if column is not None and rows.earlier is not None:
                earlier = np.asarray(rows.earlier[here])
                known = earlier >= 0
                priors[torch.from_numpy(known)] = column(earlier[known])
            return priors

        return WithColumn(rows, matched)
