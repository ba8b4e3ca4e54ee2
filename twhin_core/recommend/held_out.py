"""The users whose lists are measured, with the held-out answers that their lists should have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twhin_core.config.recommend import Recommend
from twhin_core.data.files import EdgeFiles
from twhin_core.data.splits import open_negatives
from twhin_core.embeddings.candidates import degrees, find_rows
from twhin_core.embeddings.known import numbered
from twhin_core.evaluation.list_metrics import lengths_of
from twhin_core.evaluation.metrics import bucket_of
from twhin_core.export.vector_set import TrainedRun
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.pair_files import PairFiles
from twhin_core.ranking.queries import REMOVED, Ints
from twhin_core.recommend import known
from twhin_core.recommend.candidates import candidates_of
from twhin_core.recommend.users import NumberedUsers
from twhin_core.schema import SIDES, Schema
from twhin_core.series.id_list import read_ids
from twhin_core.vectors.ids import Ids

ENTRIES_AT_ONCE = 1 << 20
"""Candidates in the lists that are made at once."""


@dataclass(frozen=True)
class HeldOutLists:
    """U users of a relation with their held-out answers. Parts are users whose lists are made at once."""

    rel: int
    at: list[int]
    """The lengths at which lists are measured."""
    users: NumberedUsers
    bucket: Ints
    """[U] the bucket of each user's degree."""
    keys: Ints
    """[A] user's number · N + row of each held-out answer, ascending; N are the rows of the answers' table."""
    edges: Ints
    """[N] training edges of the relation of each row of that table."""
    candidates: CandidateSet
    known: PairFiles
    """What is left out of the lists of this rank's users."""

    def answers(self, part: int) -> Ints:
        """The keys of the held-out answers of a part's users that their lists do not leave out."""
        users, rows = self.users.part(part), len(self.edges)
        first, last = np.searchsorted(self.keys, [users.start * rows, users.stop * rows])
        number, row = self.known.read(part)
        of_part = self.keys[first:last]
        return of_part[~np.isin(of_part, number * rows + row)]

    def are_candidates(self, keys: Ints) -> npt.NDArray[np.bool_]:
        """[n] whether each answer can be in a list."""
        row, of = keys % len(self.edges), self.candidates
        return row < of.size if of.drawn is None else np.isin(row, of.drawn)


def find_held_out(
    run: TrainedRun,
    rel: int,
    settings: Recommend,
    splits: dict[str, EdgeFiles],
    mine: tuple[int, int],
    folder: Path,
) -> HeldOutLists | None:
    """The users with edges of the relation in the evaluated split, or a sample; None if there are none.

    Args:
        mine: (rank, ranks): which parts' pairs are wanted.
        folder: for files, which the result needs.

    Raises:
        UserError: as `write_lists`.
    """
    evaluation, schema = run.config.evaluation, run.schema
    assert evaluation.lists is not None
    lhs, rhs = (schema.table_of(rel, side) for side in SIDES)
    known.sides_of_users(schema, rel, settings)  # refuses before any work
    user, answer = _edges_of(splits[evaluation.split], rel)
    asked = None if settings.users is None else find_rows(run.ids(lhs), read_ids(settings.users))
    rows = _sample(user[_have_ids(user, run.ids(lhs))], asked, evaluation.lists.users, evaluation.seed)
    if not len(rows):
        return None
    number = numbered(rows, schema.tables[lhs]).number
    users = NumberedUsers(rows, number, max(1, ENTRIES_AT_ONCE // settings.fetched))
    candidates, _ = candidates_of(run, rel, settings, folder)
    removed = REMOVED[evaluation.split]
    negatives = (open_negatives(run.config, run.root, schema, name) for name in removed)
    before = [splits[name] for name in removed if name in splits] + [files for files in negatives if files is not None]
    pairs = known.left_out(run, rel, settings, before, users, folder)
    of_users = number[user] >= 0
    return HeldOutLists(
        rel=rel,
        at=lengths_of(evaluation, settings.k),
        users=users,
        bucket=bucket_of(_degrees(splits["train"], schema, lhs, users), evaluation),
        keys=np.unique(number[user[of_users]] * schema.tables[rhs] + answer[of_users]),
        edges=degrees(splits["train"], rel, "rhs", schema.tables[rhs]),
        candidates=candidates,
        known=known.collect(pairs, users, parts_of(users, *mine), folder),
    )


def parts_of(users: NumberedUsers, rank: int, ranks: int) -> Collection[int]:
    return range(rank, users.parts, ranks)


def _edges_of(files: EdgeFiles, rel: int) -> tuple[Ints, Ints]:
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for edges in files.chunks():
        of = edges.take(edges.rel == rel)
        parts.append((of.lhs, of.rhs))
    user, answer = (np.concatenate(of) for of in zip(*parts, strict=True))
    return user, answer


def _have_ids(rows: Ints, ids: Ids) -> npt.NDArray[np.bool_]:
    """Nobody else gets a list."""
    return rows < ids.size if ids.index is None else np.isin(rows, ids.index)


def _sample(user: Ints, asked: Ints | None, most: int | None, seed: int) -> Ints:
    """The rows of the users that are asked for, or as many of them, ascending."""
    rows = np.unique(user)
    if asked is not None:
        rows = rows[np.isin(rows, asked)]
    if most is None or most >= len(rows):
        return rows
    return np.sort(np.random.default_rng([seed, 7]).choice(rows, most, replace=False, shuffle=False))


def _degrees(train: EdgeFiles, schema: Schema, table: str, users: NumberedUsers) -> Ints:
    """[U] the training edges of each user, of all relations and at both ends."""
    counts, place = np.zeros(len(users.row), np.int64), list(schema.tables).index(table)
    for edges in train.chunks():
        for side in SIDES:
            node = getattr(edges, side)[schema.table_numbers[side][edges.rel] == place]
            number = users.number[node]
            counts += np.bincount(number[number >= 0], minlength=len(counts))
    return counts
