"""Ranks the held-out edges of a side, in chunks of queries that fit into memory, each rank its share of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError
from twhin_core.evaluation.candidates import CandidateSet
from twhin_core.evaluation.held_out import HeldOut
from twhin_core.evaluation.known import Known
from twhin_core.evaluation.queries import Ints, Queries
from twhin_core.evaluation.ranking import Places
from twhin_core.schema import Schema

BYTES_A_KNOWN = 64
"""What a known answer takes while its query is ranked."""


class Placer(Protocol):
    """What can rank: a model or a baseline."""

    def of(self, candidates: CandidateSet, queries: int) -> Callable[[Queries], Places]:
        """What ranks the held-out answers of some of the `queries` that have these candidates."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of the H held-out edges of a side, in the order of `HeldOut`."""

    rivals: Ints
    """[H] how many rivals there are."""
    others: Ints
    """[H] known answers of the query that are neither held out nor removed."""
    removed: npt.NDArray[np.bool_]
    """[H] whether the answer is removed (see `REMOVED`)."""
    places: dict[str, Places]
    """By the name of what has ranked them."""


@dataclass(frozen=True)
class Chunk:
    """Queries that are ranked at once: their numbers, ascending."""

    candidates: CandidateSet
    queries: Ints


def cut(
    held: HeldOut, known: Ints, sets: Sequence[CandidateSet], schema: Schema, dim: int, memory: int, ranks: Ranks
) -> list[Chunk]:
    """This rank's share of the queries of a side, in chunks of at most about `memory` bytes.

    Args:
        known: [Q] edges of each query in all splits; no fewer than its known answers.

    Raises:
        UserError: one query alone takes more.
    """
    cost = 16 * dim + BYTES_A_KNOWN * (known + np.diff(held.first, append=len(held)))
    largest = int(cost.argmax())
    if cost[largest] > memory // 2:
        at = held.first[largest]
        relation = schema.relations[held.rel[at]].name
        raise UserError(
            f"evaluation.memory_limit: is too small for the {known[largest]:,} edges of relation {relation} at node "
            f"{held.given[at]} of its {'lhs' if held.side == 'rhs' else 'rhs'}, one query"
        )
    found = []
    for of in sets:
        mine = np.flatnonzero(np.isin(held.rel[held.first], of.relations))[ranks.rank :: ranks.world_size]
        number = np.cumsum(cost[mine]) // (memory // 2)
        found += [Chunk(of, mine[number == each]) for each in np.unique(number)]
    return found


def place(held: HeldOut, known: Known, chunks: Sequence[Chunk], placers: Mapping[str, Placer], ranks: Ranks) -> Outcome:
    """Ranks all held-out edges of a side; every rank must call it, with its own chunks, and has the whole outcome.

    Args:
        known: of these chunks.
    """
    columns = {name: np.zeros(len(held), np.int64) for name in ("rivals", "others", "removed")}
    places = {name: Places(np.zeros(len(held)), np.zeros(len(held))) for name in placers}
    of_set: CandidateSet | None = None
    rankers: dict[str, Callable[[Queries], Places]] = {}
    for number, chunk in enumerate(chunks):
        if chunk.candidates is not of_set:
            of_set = chunk.candidates
            total = int(np.isin(held.rel[held.first], of_set.relations).sum())
            rankers = {}  # first, so that what these keep in memory is free
            rankers = {name: placer.of(of_set, total) for name, placer in placers.items()}
        queries = known.take(number)
        mine = _answers_of(held, chunk.queries)
        answers = np.flatnonzero(queries.edges)
        query = queries.query[answers]
        neither = (queries.edges == 0) & ~queries.removed
        columns["others"][mine] = np.bincount(queries.query[neither], minlength=len(queries))[query]
        columns["rivals"][mine] = of_set.rivals(queries)[query]
        columns["removed"][mine] = queries.removed[answers]
        for name, ranker in rankers.items():
            placed = ranker(queries)
            places[name].rank[mine], places[name].position[mine] = placed.rank, placed.position
    for column in columns.values():
        _sum(column, ranks)
    for placed in places.values():
        _sum(placed.rank, ranks)
        _sum(placed.position, ranks)
    return Outcome(columns["rivals"], columns["others"], columns["removed"] > 0, places)


def _answers_of(held: HeldOut, queries: Ints) -> Ints:
    """The numbers of the held-out answers of some queries, ascending."""
    is_asked = np.zeros(held.queries, np.bool_)
    is_asked[queries] = True
    return np.flatnonzero(is_asked[held.query])


def _sum(column: npt.NDArray[np.int64] | npt.NDArray[np.float64], ranks: Ranks) -> None:
    """Adds up, in place, what the ranks have each found of their own share."""
    if ranks.world_size > 1:
        dist.all_reduce(torch.from_numpy(column))
