"""What a model must beat: the same ranking with scores that have learned nothing of who likes what."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from twhin_core.data.edges import Edges
from twhin_core.graph.manifest import Schema
from twhin_core.model.scorer import Side


class Popularity:
    """A candidate's number of training edges on the side asked for, of the relation asked about."""

    def __init__(self, schema: Schema, train: Edges) -> None:
        self._schema = schema
        order = np.argsort(train.rel, kind="stable")
        self._nodes: dict[Side, Tensor] = {
            "lhs": torch.from_numpy(train.lhs[order]),
            "rhs": torch.from_numpy(train.rhs[order]),
        }
        self._offsets = np.searchsorted(train.rel[order], np.arange(len(schema.relations) + 1))

    def scores(self, side: Side, rel: int, given: Tensor) -> Tensor:
        """As `Scores.scores`; [1, N], since it does not look at the query."""
        nodes = self._nodes[side][self._offsets[rel] : self._offsets[rel + 1]]
        size = self._schema.tables[self._schema.table_of(rel, side)]
        return torch.bincount(nodes, minlength=size).to(torch.float32)[None]


class Random:
    """Uniform scores, the same for the same seed.

    Each query sees another stretch of one long vector of noise: independent draws within a query, for the price of
    a copy.
    """

    def __init__(self, schema: Schema, seed: int) -> None:
        self._schema = schema
        noise = torch.rand(2 * max(schema.tables.values()), generator=torch.Generator().manual_seed(seed))
        self._noise = noise

    def scores(self, side: Side, rel: int, given: Tensor) -> Tensor:
        """As `Scores.scores`."""
        size = self._schema.tables[self._schema.table_of(rel, side)]
        stretches = self._noise.unfold(0, size, 1)
        # Knuth's multiplicative hash: neighbouring nodes, relations and sides start far apart.
        start = (given * 2_654_435_761 + (2 * rel + (side == "lhs")) * 40_503) % len(stretches)
        return stretches[start]
