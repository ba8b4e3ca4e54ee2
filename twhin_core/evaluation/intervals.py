"""95 % intervals of figures by the bootstrap (Efron, 1979): how far they would move with other held-out queries.

Queries are resampled with replacement, not answers, because the answers of one query are not independent. So that the
cost does not grow with their number, queries are dealt to random groups, and the groups are resampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twhin_core.config import Evaluation
from twhin_core.evaluation.metrics import ALL, EDGES, SAMPLED, Ranking, Sums, names, sum_up
from twhin_core.ranking.queries import Floats, Ints
from twhin_core.schema import SIDES

MOST_GROUPS = 1000
"""Of a relation's queries, and of all queries."""
GROUPS_OF_RELATIONS = 200_000
"""Roughly, over all relations; each has at least 20, or one per query."""

QUANTILES = [0.025, 0.975]

Intervals = dict[str, dict[str, list[float]]]
"""[low, high] by relation (or `all`) and name."""


class Groups:
    """Random groups of queries: of each relation, and of all."""

    def __init__(self, rel: Ints, relations: int, seed: int) -> None:
        """`rel`: the relation of each query."""
        generator = np.random.default_rng([seed, 2])
        self.of_all: Ints = generator.permutation(len(rel)) % MOST_GROUPS
        """[queries]"""
        order = np.lexsort((generator.random(len(rel)), rel))  # shuffles the queries within each relation
        turn = np.arange(len(rel)) - np.searchsorted(rel[order], np.arange(relations))[rel[order]]
        each = int(np.clip(GROUPS_OF_RELATIONS // relations, 20, MOST_GROUPS))
        keys = np.empty_like(rel)
        keys[order] = rel[order] * MOST_GROUPS + turn % each
        groups, self.of_relation = np.unique(keys, return_inverse=True)
        """[queries]; the groups of a relation have consecutive numbers."""
        self.relation: Ints = groups // MOST_GROUPS
        """The relation of each of these groups."""


def sums_by_group(groups: Groups, ranking: Ranking, evaluation: Evaluation) -> tuple[Sums, Sums]:
    """The sums of a ranking by the groups of all queries, and by those of each relation's."""
    held = ranking.held

    def sums(group: Ints) -> Sums:
        of_sides = zip(SIDES, np.split(group, [held["lhs"].queries]), strict=True)
        return sum_up(ranking, evaluation, {side: of_side[held[side].query] for side, of_side in of_sides})

    return sums(groups.of_all), sums(groups.of_relation)


def group_queries(ranking: Ranking, relations: int, seed: int) -> Groups:
    held = ranking.held
    return Groups(np.concatenate([held[side].rel[held[side].first] for side in SIDES]), relations, seed)


def intervals(
    groups: Groups, of_all: Sums, of_relation: Sums, relations: list[str], evaluation: Evaluation
) -> Intervals:
    """The interval of each figure. `of_all` and `of_relation` are sums by the groups."""
    return _intervals(groups, [(of_all, of_relation)], relations, evaluation)


def intervals_of_differences(
    groups: Groups, first: tuple[Sums, Sums], second: tuple[Sums, Sums], relations: list[str], evaluation: Evaluation
) -> Intervals:
    """The interval of each figure's difference, second - first, between two rankings of the same queries.

    Both are resampled together: what is easy or hard about a query does not widen the interval.

    Args:
        first, second: from `sums_by_group`.
    """
    return _intervals(groups, [first, second], relations, evaluation)


def _intervals(
    groups: Groups, rankings: Sequence[tuple[Sums, Sums]], relations: list[str], evaluation: Evaluation
) -> Intervals:
    generator = np.random.default_rng([evaluation.seed, 3])
    shown = [name for name in names(evaluation) if name != EDGES]
    keys = [name.removeprefix(SAMPLED) for name in shown]

    def bounds(sums: Sequence[Sums], groups: slice) -> dict[str, list[float]]:
        parts = [
            (np.stack([of.of[key][groups] for key in keys], 1), np.stack([of.over[key][groups] for key in keys], 1))
            for of in sums
        ]
        low, high = bootstrap(parts, evaluation.bootstrap, generator)
        return {name: [float(low[at]), float(high[at])] for at, name in enumerate(shown)}

    found = {ALL: bounds([of_all for of_all, _ in rankings], slice(None))}
    for rel in np.unique(groups.relation).tolist():
        first, last = np.searchsorted(groups.relation, [rel, rel + 1]).tolist()
        found[relations[rel]] = bounds([of_relation for _, of_relation in rankings], slice(first, last))
    return found


def bootstrap(
    parts: Sequence[tuple[Floats, Floats]], resamples: int, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """The 2.5 and 97.5 % quantiles, each [figures], of a figure or, for two `parts`, of the second minus the first.

    A figure is the quotient of two sums, each from [groups, figures].
    """
    count = len(parts[0][0])
    drawn = generator.integers(count, size=(resamples, count)) + np.arange(resamples)[:, None] * count
    times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
    figures = [_resampled(times, of, over) for of, over in parts]
    found = figures[-1] if len(figures) == 1 else figures[1] - figures[0]
    found[:, np.isnan(found).all(0)] = 0  # like the figure itself if there is nothing to average
    low, high = quantiles(found, QUANTILES)
    return low, high


def quantiles(values: Floats, shares: Sequence[float]) -> Floats:
    """[shares, columns] the quantiles of each column of `values`, by linear interpolation, leaving out NaN.

    As np.nanquantile, which takes far longer because it goes through the columns one by one. No column may be all NaN.
    """
    ordered, last = np.sort(values, axis=0), np.count_nonzero(~np.isnan(values), axis=0) - 1  # NaN sort to the end
    place = np.outer(shares, last)
    below = np.floor(place).astype(np.int64)
    low, high = (np.take_along_axis(ordered, at, 0) for at in (below, np.minimum(below + 1, last)))
    found: Floats = low + (high - low) * (place - below)
    return found


def _resampled(times: Floats, of: Floats, over: Floats) -> Floats:
    # Not `times @ of`: the last digits of a BLAS product depend on the machine.
    total, part = (np.einsum("rg,gf->rf", times, sums) for sums in (over, of))
    return np.where(total > 0, part / np.where(total > 0, total, 1), np.nan)
