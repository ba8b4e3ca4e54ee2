"""The lists of users: the best candidates of each by the model's score, without what is left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE, find_best, list_shape
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.pair_files import PairFiles
from twhin_core.ranking.projections import Projections
from twhin_core.ranking.queries import Ints
from twhin_core.recommend.users import Users
from twhin_core.vectors.ids import Ids
from twhin_core.vectors.names import names_of

CANDIDATE = pa.struct([("id", pa.string()), ("score", pa.float32()), ("source", pa.string())])
SCHEMA = pa.schema([("id", pa.string()), ("candidates", pa.list_(CANDIDATE))])
"""Of a file of lists: the user, and its candidates, best first."""
SOURCE = "vector"
"""What a candidate was found by."""


@dataclass(frozen=True)
class Lists:
    """What lists are made from."""

    scorer: Scorer
    projections: Projections
    users: Users
    candidates: CandidateSet
    ids: Ids
    """Of the candidates' table."""
    known: PairFiles
    """(user's number, candidate's row) of what is left out."""
    k: int

    def make(self, part: int, progress: Progress) -> pa.RecordBatch:
        """The lists of a part's users, with the columns of `SCHEMA`. A user with no candidate left has an empty list.

        Raises:
            UserError: a score is not finite.
        """
        numbers = self.users.part(part)
        scores, rows = self._find(numbers, self._excluded(part, numbers), progress)
        is_there = rows != NONE
        lengths = is_there.sum(1)
        ids = names_of(self.ids, rows[is_there])
        struct = pa.StructArray.from_arrays(
            [ids, pa.array(scores[is_there]), pa.repeat(pa.scalar(SOURCE), len(ids))], fields=list(CANDIDATE)
        )
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), struct)
        return pa.RecordBatch.from_arrays([self.users.ids(part), lists], schema=SCHEMA)

    def _find(self, numbers: slice, excluded: tuple[Ints, Ints], progress: Progress) -> tuple[np.ndarray, Ints]:
        """Scores float32 and rows int64 [Q, k] of the best candidates, `NONE` where there are fewer."""
        of, rows = self.candidates, self.users.row[numbers]
        shape = list_shape(len(rows), of.size, self.projections.arithmetic.device)
        vectors = self.projections.queries("rhs", np.repeat(of.relations, len(rows)), rows)
        candidates = self.projections.candidates(of, shape)
        products, columns = find_best(vectors, candidates, min(self.k, of.size), excluded, progress)
        found = columns.numpy()
        if of.drawn is not None:
            found = np.where(found == NONE, NONE, of.drawn[found])
        with torch.no_grad():
            return self.scorer.comparator.finish(products).numpy(), found

    def _excluded(self, part: int, numbers: slice) -> tuple[Ints, Ints]:
        """(number within the part, column) of what is left out."""
        number, row = self.known.read(part)
        column, kept = self.candidates.columns(row)
        inside = column < self.candidates.size  # rows without an id are no candidates
        return number[kept][inside] - numbers.start, column[inside]
