"""Vectors of new nodes from their edges to nodes that an earlier version has trained.

A node that the earlier version knows but had no training edge of is as good as new: nothing was learned of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.data.edges import Edges
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.parts import Part, local_parts
from twhin_core.model.scorer import Scorer
from twhin_core.schema import OTHER, SIDES, Schema, Side
from twhin_core.training.matched_rows import MatchedTable, Whole, counted_parts, held_rows
from twhin_core.vectors.ids import Ints
from twhin_core.vectors.rows import Rows

EDGES_AT_ONCE = 1 << 19
"""Edges whose predictions are summed before the means are updated: the more, the fewer passes over the known rows."""
PREDICTIONS_AT_ONCE = 1 << 16


class Ends(NamedTuple):
    """Edges between a new node of one table and a known node of another, or of the same."""

    row: Ints
    """[E] of the new nodes."""
    rel: Ints
    """[E]"""
    earlier: Ints
    """[E], the earlier rows of the known nodes."""
    weight: npt.NDArray[np.float32]
    """[E]"""


class Kind(NamedTuple):
    """Which edges `Ends` are of."""

    side: Side
    """That of the new nodes."""
    new: str
    """Their table."""
    known: str
    """The table of the known nodes."""


def predicted_sums(scorer: Scorer, side: Side, ends: Ends, known: Rows, unit: bool) -> tuple[Ints, Tensor, Tensor]:
    """For each node, the weighted sum of what its edges predict of its vector (see `Scorer.predictions`).

    Args:
        side: that of the nodes; the known ones are on the other.
        known: the vectors of the known nodes, read in ascending order, at most `PREDICTIONS_AT_ONCE` at a time.
        unit: whether to give the known vectors length 1 first.

    Returns:
        The distinct nodes, ascending, int64 [n]; their sums, float32 [n, dim]; the sums of their weights, float64 [n].
    """
    nodes, place = np.unique(ends.row, return_inverse=True)
    if (place[1:] < place[:-1]).any():
        order = np.argsort(place, kind="stable")
        ends, place = Ends(ends.row[order], ends.rel[order], ends.earlier[order], ends.weight[order]), place[order]
    sums, relations = torch.zeros(len(nodes), known.dim), int(ends.rel.max(initial=0)) + 1
    distinct, which = np.unique(ends.earlier * relations + ends.rel, return_inverse=True)
    for start in range(0, len(distinct), PREDICTIONS_AT_ONCE):
        earlier, rel = np.divmod(distinct[start : start + PREDICTIONS_AT_ONCE], relations)
        vectors = known.gather(earlier)
        with torch.no_grad():
            predicted = scorer.predictions(side, torch.from_numpy(rel), F.normalize(vectors) if unit else vectors)
        inside = np.flatnonzero((which >= start) & (which < start + len(rel)))
        rows, first = np.unique(place[inside], return_index=True)
        sums[torch.from_numpy(rows)] += F.embedding_bag(
            torch.from_numpy(which[inside] - start), predicted, torch.from_numpy(first), mode="sum",
            per_sample_weights=torch.from_numpy(ends.weight[inside]),
        )  # fmt: skip
    weights = torch.from_numpy(np.bincount(place, ends.weight, len(nodes)))
    return nodes, sums, weights


def fill_from_neighbors(
    scorer: Scorer,
    schema: Schema,
    edges: EdgeFiles,
    matched: Mapping[str, MatchedTable],
    known: Mapping[str, Rows],
    targets: Mapping[str, Whole],
    settled: Mapping[str, npt.NDArray[np.bool_]],
    unit: set[str],
    added: Mapping[str, Callable[[Ints], Tensor]],
    is_first: bool,
) -> Counter[str]:
    """Sets each new or untrained row to the mean of what its edges to trained nodes predict, weighted by theirs.

    Where content adds to rows, that mean is what both give together.

    Streams the edges once. Rows without such an edge stay as they are, and so do `settled` ones.

    Args:
        matched: by table, where all its rows were.
        known: the earlier vectors, by table.
        targets: the tables, of which this rank fills its part.
        settled: by table, which of the rows that this rank holds stay as they are.
        unit: the tables of rows of length 1.
        added: by table, what content adds to rows: int64 [n] → float32 [n, dim].
        is_first: whether this rank counts the rows that all ranks hold.

    Returns:
        How many rows were set, by table, so that those of all ranks add up.
    """
    means = {
        table: _Means(target, settled[table], table in unit, added.get(table)) for table, target in targets.items()
    }
    found: dict[Kind, list[Ends]] = {}
    count = 0

    def add() -> None:
        for kind, parts in found.items():
            ends = Ends(*map(np.concatenate, zip(*parts, strict=True)))
            means[kind.new].add(*predicted_sums(scorer, kind.side, ends, known[kind.known], kind.known in unit))
        found.clear()

    for chunk in edges.chunks():
        for kind, ends in _ends_of_new(chunk, schema, matched, means):
            found.setdefault(kind, []).append(ends)
            count += len(ends.row)
        if count >= EDGES_AT_ONCE:
            add()
            count = 0
    add()
    return Counter({table: of.finish(is_first) for table, of in means.items()})


def _ends_of_new(
    edges: Edges, schema: Schema, matched: Mapping[str, MatchedTable], means: Mapping[str, _Means]
) -> Iterator[tuple[Kind, Ends]]:
    """The ends at this rank's new or untrained nodes of edges whose other node was trained."""
    tables = list(schema.tables)
    of_relation = np.array([relation.weight for relation in schema.relations], np.float32)
    lhs_table, rhs_table = (schema.table_numbers[side][edges.rel] for side in SIDES)
    for pair in np.unique(lhs_table * len(tables) + rhs_table).tolist():
        table: dict[Side, str] = dict(zip(SIDES, (tables[number] for number in divmod(pair, len(tables))), strict=True))
        some = edges.take(np.flatnonzero(lhs_table * len(tables) + rhs_table == pair))
        node: dict[Side, Ints] = {"lhs": some.lhs, "rhs": some.rhs}
        earlier = {side: matched[table[side]].trained(node[side]) for side in SIDES}
        for side in SIDES:
            held = means[table[side]].rows
            is_mine = (node[side] >= held.start) & (node[side] < held.stop)
            wanted = np.flatnonzero(is_mine & (earlier[side] < 0) & (earlier[OTHER[side]] >= 0))
            wanted = wanted[~means[table[side]].settled[node[side][wanted] - held.start]]
            if len(wanted):
                rel = some.rel[wanted]
                ends = Ends(
                    node[side][wanted], rel, earlier[OTHER[side]][wanted], some.weight[wanted] * of_relation[rel]
                )
                yield Kind(side, table[side], table[OTHER[side]]), ends


class _Means:
    """The means of a table's rows so far, in the place of the rows."""

    def __init__(
        self,
        target: Whole,
        settled: npt.NDArray[np.bool_],
        is_unit: bool,
        added: Callable[[Ints], Tensor] | None,
    ) -> None:
        self.rows, self.settled = held_rows(target), settled
        self._target, self._is_unit, self._added = target, is_unit, added
        self._total = torch.zeros(len(self.rows), dtype=torch.float64)

    def add(self, nodes: Ints, sums: Tensor, weights: Tensor) -> None:
        """Adds to the means of distinct rows. A row's first addition replaces its value."""
        place = torch.from_numpy(nodes - self.rows.start)
        before = self._total[place]
        total = before + weights
        share = (before / total).float()[:, None]
        change = sums / total.float()[:, None]
        for part in local_parts(self._target):
            values, local, columns = self._within(part, place)
            values[local] = (values[local].float() * share.to(values.device) + change[:, columns].to(values.device)).to(
                values.dtype
            )
        self._total[place] = total

    def _within(self, part: Part, place: Tensor) -> tuple[Tensor, Tensor, slice]:
        """A part's values, the positions of rows in it, and its columns."""
        local = place + (self.rows.start - part.first_row)
        columns = slice(part.first_column, part.first_column + part.values.shape[1])
        return part.values, local.to(part.values.device), columns

    def finish(self, is_first: bool) -> int:
        """Gives unit rows their length, and takes off what content adds. Returns how many rows this rank counts."""
        filled = self._total.nonzero().squeeze(1)
        if self._is_unit:
            for part in local_parts(self._target):
                values, local, _ = self._within(part, filled)
                values[local] = F.normalize(values[local])
        if self._added is not None:
            for some in filled.split(PREDICTIONS_AT_ONCE):
                self._take_off(some, self._added((some + self.rows.start).numpy()))
        return len(filled) if any(True for _ in counted_parts(self._target, is_first)) else 0

    def _take_off(self, place: Tensor, of_content: Tensor) -> None:
        for part in local_parts(self._target):
            values, local, columns = self._within(part, place)
            values[local] = _without(values[local], of_content[:, columns].to(values), self._is_unit)


def _without(vectors: Tensor, of_content: Tensor, unit: bool) -> Tensor:
    """The id rows that give `vectors`, or unit ones their direction, together with what content adds to them: [n, dim].

    A unit row is c·vector - of_content for the c that gives it length 1, or as near to that as it gets.
    """
    if not unit:
        return vectors - of_content
    along = torch.linalg.vecdot(vectors, of_content).unsqueeze(1)
    rest = 1 - of_content.square().sum(1, keepdim=True) + along.square()
    return F.normalize((along + rest.clamp(min=0).sqrt()).clamp(min=0) * vectors - of_content)
