"""Finders whose lists a rule has gone through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twhin_core.embeddings.rule import AppliedRule
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import Ints
from twhin_core.recommend.finder import Finder, Found
from twhin_core.recommend.lists import listed
from twhin_core.vectors.ids import Ids
from twhin_core.vectors.names import names_of


@dataclass(frozen=True)
class RuledFinder:
    """Keeps the first k candidates of each list that the rule keeps."""

    finder: Finder
    rule: AppliedRule
    users: Ids
    """Of the users' table."""
    ids: Ids
    """Of the candidates' table."""
    k: int

    @property
    def candidates(self) -> CandidateSet:
        return self.finder.candidates

    def find(self, rows: Ints, excluded: tuple[Ints, Ints], progress: Progress) -> Found:
        """As `Finder.find`. Also raises UserError if the rule does not do what it must."""
        found = self.finder.find(rows, excluded, progress)
        is_there = found.rows != NONE
        kept = np.zeros_like(is_there)
        kept[is_there] = self.rule.apply(names_of(self.users, rows), is_there.sum(1), listed(found, self.ids), self.k)
        first = np.argsort(~kept, axis=1, kind="stable")[:, : self.k]
        rows, scores, source = (
            np.take_along_axis(of, first, 1) for of in (np.where(kept, found.rows, NONE), found.scores, found.source)
        )
        return Found(rows, scores, source, found.sources, found.compared)
