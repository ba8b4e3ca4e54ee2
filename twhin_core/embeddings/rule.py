"""Business rules: a function of another package that drops candidates from lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from twhin_core import plugins
from twhin_core.errors import UserError

CANDIDATE = pa.struct([("id", pa.string()), ("score", pa.float32()), ("source", pa.string())])
Scored = tuple[str, float]
"""The id and the score of a candidate."""


class Keep(Protocol):
    """What an entry point of the group `twhin.rules` refers to."""

    def __call__(self, relation: str, candidates: pa.RecordBatch) -> np.ndarray | pa.BooleanArray:
        """Says which candidates stay in their user's list.

        Args:
            candidates: the rows of all lists of some users, each list whole, best first. Columns: `user`, `id` and
                `source` strings, `score` float32.

        Returns:
            bool [rows].
        """


class AppliedRule:
    """A rule by the name of its entry point.

    Raises:
        UserError: it does not load.
    """

    def __init__(self, name: str, relation: str, key: str) -> None:
        """`key`: what names the rule, for messages."""
        self._keep: Keep = plugins.load(plugins.RULES, name)
        self._name, self._relation, self._key = name, relation, key

    def filter(
        self, users: Sequence[str], lists: Sequence[Sequence[Scored]], source: str, k: int
    ) -> list[list[Scored]]:
        """The first k candidates of each user's list that it keeps. Raises UserError as `apply`.

        Args:
            source: what the candidates were found by.
        """
        flat = [of for found in lists for of in found]
        columns = [
            pa.array([name for name, _ in flat], pa.string()), pa.array([score for _, score in flat], pa.float32()),
            pa.array([source] * len(flat), pa.string()),
        ]  # fmt: skip
        candidates = pa.StructArray.from_arrays(columns, fields=list(CANDIDATE))
        lengths = np.array([len(found) for found in lists], np.int64)
        stays = np.split(self.apply(pa.array(users, pa.string()), lengths, candidates, k), lengths.cumsum()[:-1])
        return [
            [of for of, kept in zip(found, of_list.tolist(), strict=True) if kept]
            for found, of_list in zip(lists, stays, strict=True)
        ]

    def apply(self, users: pa.StringArray, lengths: np.ndarray, candidates: pa.StructArray, k: int) -> np.ndarray:
        """Whether each candidate stays: the rule keeps it, and it is one of the first k of its user that it keeps.

        Args:
            users: [U].
            lengths: int64 [U], of their lists.
            candidates: the lists, one after the other.

        Returns:
            bool [sum of `lengths`].

        Raises:
            UserError: the rule returns something else than a truth value for each candidate.
        """
        user = np.repeat(np.arange(len(users)), lengths)
        names, columns = ["user", *candidates.type.names], [users.take(pa.array(user)), *candidates.flatten()]
        answer = self._keep(self._relation, pa.RecordBatch.from_arrays(columns, names))
        kept = answer.to_numpy(zero_copy_only=False) if isinstance(answer, pa.Array) else np.asarray(answer)
        if kept.dtype != np.bool_ or kept.shape != (len(candidates),):
            raise UserError(
                f"{self._key}: {self._name} returned {kept.dtype} {list(kept.shape)}; it must say "
                f"true or false for each of the {len(candidates):,} candidates"
            )
        before = np.concatenate([[0], kept.cumsum()])  # kept among all candidates before
        rank = before[:-1] - before[np.cumsum(lengths) - lengths][user]
        stays: np.ndarray = kept & (rank < k)
        return stays
