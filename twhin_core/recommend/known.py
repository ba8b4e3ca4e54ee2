"""What is left out of the lists of users, part by part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from twhin_core.config.recommend import Recommend
from twhin_core.data.files import EdgeFiles
from twhin_core.embeddings import known
from twhin_core.export.vector_set import TrainedRun
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.pair_files import PairFiles
from twhin_core.ranking.queries import Ints
from twhin_core.recommend.candidates import query_of
from twhin_core.recommend.users import NumberedUsers
from twhin_core.schema import Schema, Side


def sides_of_users(schema: Schema, rel: int, settings: Recommend) -> dict[int, Side]:
    """The relations whose known edges are left out of the lists of a relation, and the end at which the users are.

    Raises:
        UserError: `exclude` names an unknown relation, or one between other tables.
    """
    name = schema.names[rel]
    excluded = [name] if settings.exclude is None else settings.exclude
    return known.known_sides(schema, query_of(schema, rel), excluded, f"recommend.{name}.exclude")


def left_out(
    run: TrainedRun, rel: int, settings: Recommend, splits: Iterable[EdgeFiles], users: NumberedUsers, folder: Path
) -> Iterator[tuple[Ints, Ints]]:
    """As `known.left_out`, of the lists of a relation."""
    sides = sides_of_users(run.schema, rel, settings)
    return known.left_out(run, query_of(run.schema, rel), sides, settings, splits, users, folder)


def collect(pairs: Iterable[tuple[Ints, Ints]], users: NumberedUsers, mine: Collection[int], folder: Path) -> PairFiles:
    """The pairs of the parts `mine`, in files below `folder`."""
    part = np.arange(len(users.row)) // users.per_part
    files = PairFiles(folder / "pairs", np.where(np.isin(part, list(mine)), part, -1))
    for number, row in pairs:
        files.add(number, row)
    files.flush()
    return files


def excluded(pairs: PairFiles, users: NumberedUsers, part: int, candidates: CandidateSet) -> tuple[Ints, Ints]:
    """(position among the part's users, column of `candidates`) of what is left out of their lists."""
    number, row = pairs.read(part)
    column, kept = candidates.columns(row)
    inside = column < candidates.size  # rows without an id are no candidates
    return number[kept][inside] - users.part(part).start, column[inside]
