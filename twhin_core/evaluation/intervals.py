"""95 % intervals of figures by the bootstrap (Efron, 1979): how far they would move with other held-out queries.

Queries are resampled with replacement, not answers, because the answers of one query are not independent. So that the
cost does not grow with their number, queries are dealt to random groups, and the groups are resampled.
"""

from __future__ import annotations

import numpy as np

from twhin_core.config import Evaluation
from twhin_core.evaluation.metrics import ALL, EDGES, SAMPLED, Sums, names
from twhin_core.ranking.queries import Floats, Ints

MOST_GROUPS = 1000
"""Of a relation's queries, and of all queries."""
GROUPS_OF_RELATIONS = 200_000
"""Roughly, over all relations; each has at least 20, or one per query."""

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


def intervals(
    groups: Groups, of_all: Sums, of_relation: Sums, relations: list[str], evaluation: Evaluation
) -> Intervals:
    """The interval of each figure. `of_all` and `of_relation` are sums by the groups."""
    generator = np.random.default_rng([evaluation.seed, 3])
    shown = [name for name in names(evaluation) if name != EDGES]

    def bounds(sums: Sums, of: slice) -> dict[str, list[float]]:
        keys = [name.removeprefix(SAMPLED) for name in shown]
        parts = [np.stack([columns[key][of] for key in keys], 1) for columns in (sums.of, sums.over)]
        low, high = _bounds(parts[0], parts[1], evaluation.bootstrap, generator)
        return {name: [float(low[at]), float(high[at])] for at, name in enumerate(shown)}

    found = {ALL: bounds(of_all, slice(None))}
    for rel in np.unique(groups.relation).tolist():
        first, last = np.searchsorted(groups.relation, [rel, rel + 1]).tolist()
        found[relations[rel]] = bounds(of_relation, slice(first, last))
    return found


def _bounds(of: Floats, over: Floats, resamples: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """The 2.5 and 97.5 % quantiles, each [figures], of the quotient of the sums of both: [groups, figures]."""
    count = len(of)
    drawn = generator.integers(count, size=(resamples, count)) + np.arange(resamples)[:, None] * count
    times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
    # Not `times @ of`: the last digits of a BLAS product depend on the machine.
    total, part = (np.einsum("rg,gf->rf", times, sums) for sums in (over, of))
    figures = np.where(total > 0, part / np.where(total > 0, total, 1), np.nan)
    figures[:, np.isnan(figures).all(0)] = 0  # like the figure itself if there is nothing to average
    low, high = np.nanquantile(figures, [0.025, 0.975], axis=0)
    return low, high
