"""What is counted of the lists of one source, and the figures that it adds up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twhin_core.config import Evaluation
from twhin_core.data.frequencies import sum_by_key
from twhin_core.evaluation.deciles import Histogram, deciles
from twhin_core.evaluation.intervals import MOST_GROUPS, bootstrap
from twhin_core.evaluation.list_metrics import (
    ACCURACY,
    CATALOG,
    DECILES,
    SHOWN,
    accuracy,
    coverage,
    diversity,
    gini,
    list_names,
    novelty,
    popularity,
    self_information,
)
from twhin_core.evaluation.metrics import buckets
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.queries import Floats, Ints
from twhin_core.recommend import known
from twhin_core.recommend.finder import Finder, Found
from twhin_core.recommend.held_out import HeldOutLists
from twhin_core.vectors.rows import Rows

if TYPE_CHECKING:
    from twhin_core.distributed.ranks import Ranks

VECTORS_AT_ONCE = 1 << 22
"""Numbers in the vectors of the lists whose diversity is computed at once."""


@dataclass
class Counts:
    """Of all lists of one source, or of some of them."""

    values: dict[str, Floats]
    """[U] by figure, of each user; nan where there is none."""
    shown: dict[int, tuple[Ints, Ints]]
    """By length: bucket · N + row, ascending, and how many lists of users in the bucket have the row."""
    answered: Histogram
    """All answers, by their training edges."""
    hits: dict[int, Histogram]
    """By length: those that are in the list of their user."""
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    """By the source of candidates: how many of each are listed, and how many of these are answers."""
    answers: int = 0
    reachable: int = 0

    def merge(self, other: Counts) -> None:
        """Adds the counts of other users."""
        for name, values in self.values.items():
            np.copyto(values, other.values[name], where=~np.isnan(other.values[name]))
        for mine, others in ((self.shown, other.shown), (self.hits, other.hits)):
            for k, counts in mine.items():
                mine[k] = _sum(counts, others[k])
        self.answered = _sum(self.answered, other.answered)
        for source, of_source in other.sources.items():
            total = self.sources.setdefault(source, dict.fromkeys(of_source, 0))
            for name, count in of_source.items():
                total[name] += count
        self.answers, self.reachable = self.answers + other.answers, self.reachable + other.reachable


class Tally:
    """Makes and measures the lists of one source, part by part."""

    def __init__(self, task: HeldOutLists, units: Rows) -> None:
        """`units`: the vectors of the candidates' table, of length 1 or 0."""
        self._task, self._units = task, units
        self._information = self_information(task.edges)
        self._counts = _nothing(task)

    def add(self, part: int, finder: Finder, progress: Progress) -> None:
        """Measures the lists of a part's users.

        Raises:
            UserError: a score is not finite.
        """
        task, users = self._task, self._task.users.part(part)
        left_out = known.excluded(task.known, task.users, part, task.candidates)
        found = finder.find(task.users.row[users], left_out, progress)
        rows, answers = found.rows[:, : task.at[-1]], task.answers(part)
        number = np.bincount(answers // len(task.edges) - users.start, minlength=len(rows))
        asked = np.flatnonzero(number)
        is_there = (rows != NONE) & (number > 0)[:, None]
        keys = np.arange(users.start, users.stop)[:, None] * len(task.edges) + rows
        hits = is_there & np.isin(keys, answers)
        for name, values in accuracy(hits[asked], number[asked], task.at).items():
            self._counts.values[name][users.start + asked] = values
        for name, values in self._of_lists(rows, is_there).items():
            self._counts.values[name][users] = values
        self._count_shown(rows, is_there, task.bucket[users])
        self._count_answers(answers, rows, hits)
        self._count_sources(found, is_there, hits)
        self._counts.answers += len(answers)
        self._counts.reachable += int(task.are_candidates(answers).sum())

    def _of_lists(self, rows: Ints, is_there: npt.NDArray[np.bool_]) -> dict[str, Floats]:
        """[U] the figures that do not ask what was hit."""
        at, some = self._task.at, np.where(is_there, rows, 0)
        values = novelty(self._information[some], is_there, at)
        values |= popularity(self._task.edges[some], is_there, at)
        users = max(1, VECTORS_AT_ONCE // (rows.shape[1] * self._units.dim))
        parts = []
        for start in range(0, len(rows), users):
            of = some[start : start + users]
            vectors = self._units.gather(of.ravel()).numpy().reshape(*of.shape, self._units.dim)
            parts.append(diversity(vectors, is_there[start : start + users], at))
        return values | {name: np.concatenate([of[name] for of in parts]) for name in parts[0]}

    def _count_shown(self, rows: Ints, is_there: npt.NDArray[np.bool_], bucket: Ints) -> None:
        keys = bucket[:, None] * len(self._task.edges) + rows
        for k, (shown, times) in self._counts.shown.items():
            more = keys[:, :k][is_there[:, :k]]
            self._counts.shown[k] = _sum((shown, times), (more, np.ones_like(more)))

    def _count_answers(self, answers: Ints, rows: Ints, hits: npt.NDArray[np.bool_]) -> None:
        edges, counts = self._task.edges, self._counts
        of_answers = edges[answers % len(edges)]
        counts.answered = _sum(counts.answered, (of_answers, np.ones_like(of_answers)))
        for k, before in counts.hits.items():
            of_hits = edges[rows[:, :k][hits[:, :k]]]
            counts.hits[k] = _sum(before, (of_hits, np.ones_like(of_hits)))

    def _count_sources(self, found: Found, is_there: npt.NDArray[np.bool_], hits: npt.NDArray[np.bool_]) -> None:
        for number, source in enumerate(found.sources):
            of = is_there & (found.source[:, : is_there.shape[1]] == number)
            counts = self._counts.sources.setdefault(source, {})
            for k in self._task.at:
                for name, where in ((f"listed@{k}", of), (f"hits@{k}", of & hits)):
                    counts[name] = counts.get(name, 0) + int(where[:, :k].sum())

    def of_all(self, ranks: Ranks) -> Counts:
        """The counts of the lists of all ranks. A collective."""
        total = _nothing(self._task)
        for counts in ranks.of_all(self._counts):
            total.merge(counts)
        return total


def _nothing(task: HeldOutLists) -> Counts:
    users, none = len(task.users.row), np.empty(0, np.int64)
    names = list_names(task.at, (*ACCURACY, *SHOWN))
    nothing = none, none
    values = {name: np.full(users, np.nan) for name in names}
    return Counts(values, dict.fromkeys(task.at, nothing), nothing, dict.fromkeys(task.at, nothing))


def _sum(one: Histogram, other: Histogram) -> Histogram:
    """The sums of counts by key."""
    return sum_by_key(*(np.concatenate(of) for of in zip(one, other, strict=True)))


def summary(task: HeldOutLists, counts: Mapping[str, Counts], evaluation: Evaluation) -> dict[str, Any]:
    """The figures of a relation's lists; see `list_metrics.Lists`. `counts`: by what made the lists."""
    first = next(iter(counts.values()))
    everyone = np.zeros(len(task.users.row), np.int64)
    return {
        "at": task.at,
        "users": int((~np.isnan(first.values[f"recall@{task.at[0]}"])).sum()),
        "answers": first.answers,
        "candidates": task.candidates.size,
        "reachable": first.reachable,
        "figures": {name: _figures(task, of, everyone, 0, None) for name, of in counts.items()},
        "intervals": {name: _intervals(task, of, evaluation) for name, of in counts.items()},
        "degrees": {name: _by_degree(task, of, evaluation) for name, of in counts.items()},
        DECILES: {name: deciles(of.answered, of.hits) for name, of in counts.items()},
        "sources": {name: of.sources for name, of in counts.items()},
    }


def _figures(task: HeldOutLists, counts: Counts, label: Ints, wanted: int, bucket: int | None) -> dict[str, float]:
    """The figures of the users with a label, leaving out those of nothing. `bucket`: theirs; None for all."""
    figures: dict[str, float] = {}
    for name, values in counts.values.items():
        of = values[(label == wanted) & ~np.isnan(values)]
        if len(of):
            figures[name] = float(of.mean())
    for k, (key, times) in counts.shown.items():
        of_bucket = np.ones(len(key), bool) if bucket is None else key // len(task.edges) == bucket
        _, each = sum_by_key(key[of_bucket] % len(task.edges), times[of_bucket])
        figures |= {
            f"coverage@{k}": coverage(each, task.candidates.size),
            f"gini@{k}": gini(each, task.candidates.size),
        }
    return {name: figures[name] for name in list_names(task.at, (*ACCURACY, *SHOWN, *CATALOG)) if name in figures}


def _by_degree(task: HeldOutLists, counts: Counts, evaluation: Evaluation) -> dict[str, dict[str, float]]:
    names, asked = buckets(evaluation), ~np.isnan(counts.values[f"recall@{task.at[0]}"])
    users = np.bincount(task.bucket[asked], minlength=len(names))
    return {
        name: {"users": int(users[number]), **_figures(task, counts, task.bucket, number, number)}
        for number, name in enumerate(names)
        if users[number]
    }


def _intervals(task: HeldOutLists, counts: Counts, evaluation: Evaluation) -> dict[str, list[float]]:
    """The 95 % interval of each accuracy over users, who are dealt to groups that are resampled."""
    names = list_names(task.at, ACCURACY)
    asked = ~np.isnan(counts.values[names[0]])
    group = np.random.default_rng([evaluation.seed, 8]).permutation(int(asked.sum())) % MOST_GROUPS
    if not len(group):
        return {}
    of = np.stack([np.bincount(group, counts.values[name][asked]).astype(np.float64) for name in names], 1)
    over = np.repeat(np.bincount(group).astype(np.float64)[:, None], len(names), 1)
    low, high = bootstrap([(of, over)], evaluation.bootstrap, np.random.default_rng([evaluation.seed, 9]))
    return {name: [float(low[at]), float(high[at])] for at, name in enumerate(names)}
