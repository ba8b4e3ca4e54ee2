"""What finds the best candidates of users: by the model's score of each user with each candidate, or another way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE, find_best, list_shape
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.projections import Projections
from twhin_core.ranking.queries import Ints


@dataclass(frozen=True)
class Found:
    """The best candidates of Q users, best first."""

    rows: Ints
    """int64 [Q, k]: rows of the candidates' table, `NONE` behind the last candidate of a user."""
    scores: np.ndarray
    """float32 [Q, k]."""
    source: np.ndarray
    """int8 [Q, k]: positions in `sources`."""
    sources: tuple[str, ...]
    """What candidates were found by."""
    compared: tuple[int, int] = (0, 0)
    """Of the lists of some users, if the others are not exact either: how many candidates of their exact lists were
    found, and how many these have."""


def found_by(source: str, of: CandidateSet, columns: Ints, scores: np.ndarray) -> Found:
    """What one source found, by columns of the candidates: int64 [Q, k], with scores float32 [Q, k]."""
    rows = columns if of.drawn is None else np.where(columns == NONE, NONE, of.drawn[columns])
    return Found(rows, scores, np.zeros(columns.shape, np.int8), (source,))


class Finder(Protocol):
    """A way to find the candidates of users."""

    @property
    def candidates(self) -> CandidateSet: ...

    def find(self, rows: Ints, excluded: tuple[Ints, Ints], progress: Progress) -> Found:
        """The best candidates of the users with these `rows`, ascending or not.

        Args:
            rows: int64 [Q], of the users' table.
            excluded: (position in `rows`, column of `candidates`) of what no list may have.

        Raises:
            UserError: a score is not finite.
        """


@dataclass(frozen=True)
class ExactFinder:
    """Scores each user with each candidate."""

    scorer: Scorer
    projections: Projections
    candidates: CandidateSet
    k: int

    def find(self, rows: Ints, excluded: tuple[Ints, Ints], progress: Progress) -> Found:
        """As `Finder.find`."""
        of = self.candidates
        shape = list_shape(len(rows), of.size, self.projections.arithmetic.device)
        vectors = self.projections.queries("rhs", np.repeat(of.relations, len(rows)), rows)
        products, columns = find_best(
            vectors, self.projections.candidates(of, shape), min(self.k, of.size), excluded, progress
        )
        with torch.no_grad():
            scores = self.scorer.comparator.finish(products).numpy()
        return found_by("vector", of, columns.numpy(), scores)
