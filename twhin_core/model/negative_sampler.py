"""The distribution that negatives are drawn from, global negatives drawn from it, and the logQ correction for it.

Of the N + M candidates of a chunk, N are nodes of edges of its relation, drawn in proportion to their share `s` of
those edges; M are global, drawn from a distribution `g` over the table. Together they are draws from

    q(v) = (N · s(v) + M · g(v)) / (N + M)

and log(q(v) · rows) says how much likelier v is than under a uniform draw. The logQ correction subtracts it from the
score of v, positive or negative (Yi et al., RecSys 2019); the scores learned are then those of uniform negatives.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from twhin_core.config import TrainData
from twhin_core.data.frequencies import Frequencies
from twhin_core.model.negatives import draw
from twhin_core.schema import Schema, Side


class NegativeSampler:
    """The distributions of a data set's negatives, on the device that draws them."""

    def __init__(
        self, schema: Schema, data: TrainData, frequencies: Frequencies | None, device: torch.device | None = None
    ) -> None:
        """`frequencies`: how often each node is on each side of each relation; required if `data.needs_frequencies`."""
        self._data = data
        self._size = torch.tensor(list(schema.tables.values()), device=device)
        self._corrects = data.logq_correction
        self._degrees: DegreeDistribution | None = None
        assert frequencies is not None or not data.needs_frequencies
        if frequencies is not None:
            self.counts = CountLookup(frequencies, device)
            if data.in_batch_negatives:
                # At least 1, because a held-out edge may have a relation without training edges.
                self._edges = torch.from_numpy(frequencies.totals(2 * len(schema.relations)).clip(min=1)).to(device)
            if data.global_negatives_power:
                degrees = frequencies.regrouped(schema.ends)
                self._degrees = DegreeDistribution(degrees, data.global_negatives_power, len(schema.tables), device)

    def draw(self, table: Tensor, generator: torch.Generator) -> Tensor:
        """M global negatives for each chunk: int64 [C, M]. `table`: int64 [C], the number of each chunk's table."""
        if self._degrees is not None:
            return self._degrees.draw(table, self._size[table], self._data.global_negatives, generator)
        return draw(self._size[table], self._data.global_negatives, generator)

    def correction(self, side: Side, rel: Tensor, table: Tensor, node: Tensor) -> Tensor | None:
        """log(q · rows) of the nodes [C, X] of C chunks: float32 [C, X]; None without logq_correction.

        Args:
            side: the nodes' side of the edges.
            rel: int64 [C], the chunks' relations; ignored without in-batch negatives.
            table: int64 [C], their tables.
        """
        if not self._corrects:
            return None
        ratio = self._ratio(side, rel[:, None], table[:, None], node, least=0)
        unseen = ratio == 0
        if node.is_cuda or unseen.any():  # on a GPU, any() would synchronize
            # A held-out edge may have a node without training edges; it counts as if it had one.
            ratio = torch.where(unseen, self._ratio(side, rel[:, None], table[:, None], node, least=1), ratio)
        return ratio.log().float()

    def _ratio(self, side: Side, rel: Tensor, table: Tensor, node: Tensor, least: int) -> Tensor:
        """q · rows, with counts clamped to at least `least`: float64."""
        n, m, size = self._data.in_batch_negatives, self._data.global_negatives, self._size[table].double()
        ratio = torch.zeros(node.shape, dtype=torch.float64, device=node.device)
        if n:
            group = 2 * rel + (side == "rhs")
            ratio += n * size * self.counts.of(group, node).clamp(min=least) / self._edges[group]
        if m:
            ratio += m if self._degrees is None else m * size * self._degrees.share(table, node, least)
        return ratio / (n + m)


ENTRIES_PER_KEY = 4
"""Counts are kept for all nodes if these are at most so many times those that occur: at most twice the memory."""


class CountLookup:
    """`Frequencies` as tensors on a device."""

    def __init__(self, frequencies: Frequencies, device: torch.device | None = None) -> None:
        key, count = frequencies.key, frequencies.count
        self._rows = frequencies.rows
        self._last = int(key[-1]) + 1 if len(key) else 0
        if self._last <= ENTRIES_PER_KEY * len(key):  # an index is far faster than a search
            dense = np.zeros(self._last + 1, np.int64)
            dense[key] = count
            self._key, self._count = None, torch.from_numpy(dense).to(device)
        else:
            self._key, self._count = torch.from_numpy(key).to(device), torch.from_numpy(count).to(device)

    def of(self, group: Tensor, node: Tensor) -> Tensor:
        """How often each node occurs in its group: int64, broadcast."""
        wanted = group * self._rows + node
        if self._key is None:
            return self._count[wanted.clamp(max=self._last)]
        position = torch.searchsorted(self._key, wanted).clamp(max=len(self._key) - 1)
        return torch.where(self._key[position] == wanted, self._count[position], 0)


class DegreeDistribution:
    """Draws nodes of a table in proportion to degree^power, where each edge adds 1 to the degree of both its nodes."""

    def __init__(self, degrees: Frequencies, power: float, tables: int, device: torch.device | None = None) -> None:
        """`degrees`: counts grouped by table."""
        self._degrees, self._power = CountLookup(degrees, device), power
        self._node = torch.from_numpy(degrees.key % degrees.rows).to(device)
        weights = np.concatenate([[0.0], (degrees.count.astype(np.float64) ** power).cumsum()])
        first = np.searchsorted(degrees.key, np.arange(tables + 1) * degrees.rows)
        self._up_to = torch.from_numpy(weights[1:]).to(device)  # [n]: cumulative weights of the nodes
        self._first = torch.from_numpy(first).to(device)
        self._below = torch.from_numpy(weights[first]).to(device)  # [tables + 1]: cumulative weights before each table

    def draw(self, table: Tensor, size: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Nodes of each chunk's table, drawn with replacement: int64 [C, count]. Uniform if all degrees are 0."""
        share = torch.rand(len(table), count, dtype=torch.float64, generator=generator, device=table.device)
        low, total = self._below[table, None], self._below.diff()[table, None]
        position = torch.searchsorted(self._up_to, low + share * total, right=True)
        # Rounding can carry a share just below 1 past the table's last weight.
        position = torch.minimum(position, self._first[table + 1, None] - 1).clamp(min=0)
        return torch.where(total > 0, self._node[position], (share * size[:, None]).long())

    def share(self, table: Tensor, node: Tensor, least: int) -> Tensor:
        """The probability of each node, with degrees clamped to at least `least`: float64."""
        total = self._below.diff().clamp(min=1)
        return self._degrees.of(table, node).clamp(min=least).double() ** self._power / total[table]
