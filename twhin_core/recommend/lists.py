"""The lists of users as they are written: the candidates that were found, by their ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from twhin_core.embeddings.rule import CANDIDATE
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.pair_files import PairFiles
from twhin_core.recommend.finder import Finder, Found
from twhin_core.recommend.known import excluded
from twhin_core.recommend.users import Users
from twhin_core.vectors.ids import Ids
from twhin_core.vectors.names import names_of

SCHEMA = pa.schema([("id", pa.string()), ("candidates", pa.list_(CANDIDATE))])
"""Of a file of lists: the user, and its candidates, best first."""


@dataclass(frozen=True)
class Lists:
    """What lists are made from."""

    finder: Finder
    users: Users
    ids: Ids
    """Of the candidates' table."""
    known: PairFiles
    """(user's number, candidate's row) of what is left out."""

    def make(self, part: int, progress: Progress) -> tuple[pa.RecordBatch, tuple[int, int]]:
        """The lists of a part's users, with the columns of `SCHEMA`, and what was compared (`Found.compared`).

        A user with no candidate left has an empty list.

        Raises:
            UserError: a score is not finite, or the rule does not do what it must.
        """
        numbers = self.users.part(part)
        left_out = excluded(self.known, self.users, part, self.finder.candidates)
        found = self.finder.find(self.users.row[numbers], left_out, progress)
        offsets = np.concatenate([[0], (found.rows != NONE).sum(1).cumsum()]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), listed(found, self.ids))
        return pa.RecordBatch.from_arrays([self.users.ids(part), lists], schema=SCHEMA), found.compared


def listed(found: Found, ids: Ids) -> pa.StructArray:
    """The candidates of all users, one after the other. `ids`: of the candidates' table."""
    is_there = found.rows != NONE
    sources = pa.DictionaryArray.from_arrays(pa.array(found.source[is_there]), pa.array(found.sources, pa.string()))
    columns = [names_of(ids, found.rows[is_there]), pa.array(found.scores[is_there]), sources.dictionary_decode()]
    return pa.StructArray.from_arrays(columns, fields=list(CANDIDATE))
