"""How likely each node is to be drawn as a negative, and global negatives drawn by it.

Of the N + M candidates of a chunk, N come from edges of its relation, so a node is as likely as its share `s` of the
ends of those edges; M are global ones, drawn from a distribution `g` over the table. Together they are draws from

    q(v) = (N · s(v) + M · g(v)) / (N + M)

and log(q(v) · rows) is by how much q favours v over a uniform draw: what logQ correction takes from v's score (Yi et
al., RecSys 2019), from that of the positive too. Scores so learned are those that uniform negatives would teach.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from twhin_core.config import TrainData
from twhin_core.data.frequencies import Frequencies
from twhin_core.model.negatives import draw
from twhin_core.schema import SIDES, Schema, Side


class NegativeSampler:
    """The laws that the negatives of a data set are drawn by, on the device where they are drawn."""

    def __init__(
        self, schema: Schema, data: TrainData, frequencies: Frequencies | None, device: torch.device | None = None
    ) -> None:
        """`frequencies`: how often each node is on each side of each relation; needed unless all draws are uniform."""
        self._data = data
        self._size = torch.tensor(list(schema.tables.values()), device=device)
        self._corrects = data.logq_correction
        self._degrees: DegreeDistribution | None = None
        assert frequencies is not None or not data.needs_frequencies
        if frequencies is not None:
            if data.in_batch_negatives:
                self._frequencies = CountLookup(frequencies, device)
                # At least 1, because held-out edges may be of a relation that no training edge is of.
                self._edges = torch.from_numpy(frequencies.totals(2 * len(schema.relations)).clip(min=1)).to(device)
            if data.global_negatives_power:
                numbers = {table: number for number, table in enumerate(schema.tables)}
                tables = [numbers[schema.table_of(rel, side)] for rel in range(len(schema.relations)) for side in SIDES]
                degrees = frequencies.regrouped(np.array(tables, np.int64))
                self._degrees = DegreeDistribution(degrees, data.global_negatives_power, len(schema.tables), device)

    def draw(self, table: Tensor, generator: torch.Generator) -> Tensor:
        """M global negatives for each of C chunks, whose tables are given by number: int64 [C, M]."""
        if self._degrees is not None:
            return self._degrees.draw(table, self._size[table], self._data.global_negatives, generator)
        return draw(self._size[table], self._data.global_negatives, generator)

    def correction(self, side: Side, rel: Tensor, table: Tensor, node: Tensor) -> Tensor | None:
        """log(q · rows) of the nodes [C, X] of C chunks: float32 [C, X]; None without logQ correction.

        Args:
            side: which end of the edges the nodes are at.
            rel: int64 [C]: the chunks' relations; without effect where there are no in-batch negatives.
            table: int64 [C]: their tables.
        """
        if not self._corrects:
            return None
        ratio = self._ratio(side, rel[:, None], table[:, None], node, least=0)
        unseen = ratio == 0
        if node.is_cuda or unseen.any():  # a GPU would have to wait for the answer
            # A held-out edge may have a node that no training edge has; it counts as if it were in one.
            ratio = torch.where(unseen, self._ratio(side, rel[:, None], table[:, None], node, least=1), ratio)
        return ratio.log().float()

    def _ratio(self, side: Side, rel: Tensor, table: Tensor, node: Tensor, least: int) -> Tensor:
        """q · rows, with counts of at least `least`: float64."""
        n, m, size = self._data.in_batch_negatives, self._data.global_negatives, self._size[table].double()
        ratio = torch.zeros(node.shape, dtype=torch.float64, device=node.device)
        if n:
            group = 2 * rel + (side == "rhs")
            ratio += n * size * self._frequencies.of(group, node).clamp(min=least) / self._edges[group]
        if m:
            ratio += m if self._degrees is None else m * size * self._degrees.share(table, node, least)
        return ratio / (n + m)


class CountLookup:
    """`Frequencies` as tensors, looked up on a device."""

    def __init__(self, frequencies: Frequencies, device: torch.device | None = None) -> None:
        self._key, self._count = (torch.from_numpy(of).to(device) for of in (frequencies.key, frequencies.count))
        self._rows = frequencies.rows

    def of(self, group: Tensor, node: Tensor) -> Tensor:
        """How often each node occurs in its group: int64, broadcast; 0 where it does not."""
        wanted = group * self._rows + node
        if not len(self._key):
            return torch.zeros_like(wanted)
        position = torch.searchsorted(self._key, wanted).clamp(max=len(self._key) - 1)
        return torch.where(self._key[position] == wanted, self._count[position], 0)


class DegreeDistribution:
    """Nodes of a table in proportion to degree^power, the degree being the number of ends of edges at the node."""

    def __init__(self, degrees: Frequencies, power: float, tables: int, device: torch.device | None = None) -> None:
        """`degrees`: counts grouped by table."""
        self._degrees, self._power = CountLookup(degrees, device), power
        self._node = torch.from_numpy(degrees.key % degrees.rows).to(device)
        weights = np.concatenate([[0.0], (degrees.count.astype(np.float64) ** power).cumsum()])
        first = np.searchsorted(degrees.key, np.arange(tables + 1) * degrees.rows)
        self._up_to = torch.from_numpy(weights[1:]).to(device)  # [n]: the weights of a node and all before it
        self._first = torch.from_numpy(first).to(device)
        self._below = torch.from_numpy(weights[first]).to(device)  # [tables + 1]: the weights of all tables before

    def draw(self, table: Tensor, size: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Nodes of each chunk's table, with replacement: int64 [C, count]. Uniform if all its degrees are 0."""
        share = torch.rand(len(table), count, dtype=torch.float64, generator=generator, device=table.device)
        low, total = self._below[table, None], self._below.diff()[table, None]
        position = torch.searchsorted(self._up_to, low + share * total, right=True)
        # Rounding can carry a share just below 1 to the end of the table's weights.
        position = torch.minimum(position, self._first[table + 1, None] - 1).clamp(min=0)
        return torch.where(total > 0, self._node[position], (share * size[:, None]).long())

    def share(self, table: Tensor, node: Tensor, least: int) -> Tensor:
        """The probability of each node, with degrees of at least `least`: float64."""
        total = self._below.diff().clamp(min=1)
        return self._degrees.of(table, node).clamp(min=least).double() ** self._power / total[table]
