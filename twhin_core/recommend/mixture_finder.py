"""Finds candidates of users with several interests: some from each of the clusters that a user is a mixture of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import Ints, split_by
from twhin_core.recommend.apportion import apportion, take_turns
from twhin_core.recommend.cluster_search import Asked, ClusterSearch, Picked
from twhin_core.recommend.finder import ExactFinder, Found
from twhin_core.recommend.mixture import Mixtures
from twhin_core.vectors.rows import Rows


@dataclass(frozen=True)
class MixtureFinder:
    """Takes turns between the user's list by its single vector and candidates from its clusters, after kNN-Embed.

    The places of a list are divided among the user's `top` clusters in proportion to its mixture (`mixture.py`), and
    each cluster is searched with a query of its own (`cluster_search.py`). The best of every cluster come first, in
    proportion too. Scores are those by the user's single vector, and so need not descend.
    """

    exact: ExactFinder
    search: ClusterSearch
    mixtures: Mixtures
    users: Rows
    """The vectors of the lhs table."""

    @property
    def candidates(self) -> CandidateSet:
        return self.exact.candidates

    def find(self, rows: Ints, excluded: tuple[Ints, Ints], progress: Progress) -> Found:
        """As `Finder.find`."""
        single = self.exact.find(rows, excluded, progress)
        found, scores = self._from_clusters(rows, excluded, single.rows.shape[1])
        turns = take_turns(found, single.rows, self.mixtures.settings.share, found.shape[1])
        place, is_there = np.maximum(turns, 0), turns != NONE
        merged = np.take_along_axis(np.concatenate([found, single.rows], 1), place, 1)
        merged_scores = np.take_along_axis(np.concatenate([scores, single.scores], 1), place, 1)
        return Found(
            rows=np.where(is_there, merged, NONE),
            scores=np.where(is_there, merged_scores, np.float32(-np.inf)),
            source=(turns >= found.shape[1]).astype(np.int8),
            sources=("cluster", *single.sources),
        )

    def _from_clusters(self, rows: Ints, excluded: tuple[Ints, Ints], k: int) -> tuple[Ints, npt.NDArray[np.float32]]:
        """The candidates from the clusters of each user, in their order: rows int64 [Q, k], scores [Q, k]."""
        picked = self._pick(rows, excluded, k)
        order = np.lexsort((-picked.product, picked.due, picked.user))
        user = picked.user[order]
        place = np.arange(len(user)) - np.searchsorted(user, user)
        found, products = np.full((len(rows), k), NONE), np.full((len(rows), k), -np.inf, np.float32)
        found[user, place], products[user, place] = picked.row[order], picked.product[order]
        with torch.no_grad():
            scores: npt.NDArray[np.float32] = self._scorer.comparator.finish(torch.from_numpy(products)).numpy()
        return found, scores

    @property
    def _scorer(self) -> Scorer:
        return self.exact.scorer

    def _pick(self, rows: Ints, excluded: tuple[Ints, Ints], k: int) -> Picked:
        of, clusters = self.candidates, self.mixtures.settings.clusters
        row = np.arange(of.size) if of.drawn is None else of.drawn
        cluster = self.mixtures.cluster[row]
        members = _Grouped(cluster, clusters, np.arange(of.size))
        place = np.empty(of.size, np.int64)
        place[members.columns[0]] = np.arange(of.size) - np.repeat(members.first, members.count)
        user, column = np.unique(np.stack(excluded), axis=1)
        left_out = _Grouped(cluster[column], clusters, user, place[column])
        position, item = self.mixtures.histories.of(rows)
        edges = _Grouped(self.mixtures.cluster[item], clusters, position, item)
        rel = np.full(len(rows), of.relations[0])
        own = self.exact.projections.queries(of.side, rel, rows)
        with torch.no_grad():
            nodes = self.users.gather(rows)
            points = self._scorer.query_points(of.side, torch.from_numpy(rel)[None], nodes[None])[0]
        asking, asked_of, places = self._quotas(rows, user * clusters + cluster[column], members.count, k)
        parts, number = [], np.full(len(rows), NONE)
        for group, pairs in split_by(asked_of):
            users = asking[pairs]
            number[users] = np.arange(len(users))
            asked = Asked(
                points[users], own[users], places[pairs], _of(edges.of(group), number), _of(left_out.of(group), number)
            )
            (columns,) = members.of(group)
            found = self.search.find(replace(of, size=len(columns), drawn=row[columns]), asked)
            parts.append(replace(found, user=users[found.user]))
            number[users] = NONE
        return Picked.joined(parts)

    def _quotas(self, rows: Ints, left_out: Ints, sizes: Ints, k: int) -> tuple[Ints, Ints, Ints]:
        """(user, cluster, places) of what each user wants of its clusters, as arrays [P] in the order of users.

        Args:
            left_out: user · clusters + cluster of each candidate that a user must not get.
            sizes: candidates of each cluster.
        """
        clusters, top = self.mixtures.settings.clusters, self.mixtures.settings.top
        left_out, parts = np.sort(left_out), [np.empty((3, 0), np.int64)]
        for block, mixture in self.mixtures.blocks(rows):
            best = np.argsort(-mixture, axis=1, kind="stable")[:, :top]
            cell = np.arange(block.start, block.stop)[:, None] * clusters + best
            lacking = np.searchsorted(left_out, cell, "right") - np.searchsorted(left_out, cell)
            places = apportion(np.take_along_axis(mixture, best, 1), k, sizes[best] - lacking)
            line, at = np.nonzero(places)
            parts.append(np.stack([block.start + line, best[line, at], places[line, at]]))
        user, cluster, places = np.concatenate(parts, 1)
        return user, cluster, places


class _Grouped:
    """Columns of numbers, sorted by group."""

    def __init__(self, group: Ints, groups: int, *columns: Ints) -> None:
        order = np.argsort(group, kind="stable")
        self.columns = tuple(column[order] for column in columns)
        self.count = np.bincount(group, minlength=groups)
        self.first = self.count.cumsum() - self.count

    def of(self, group: int) -> tuple[Ints, ...]:
        first = self.first[group]
        return tuple(column[first : first + self.count[group]] for column in self.columns)


def _of(pairs: tuple[Ints, ...], number: Ints) -> tuple[Ints, Ints]:
    """The pairs (user, …) of the users that have a number, by their numbers."""
    user, other = pairs
    kept = number[user] != NONE
    return number[user][kept], other[kept]
