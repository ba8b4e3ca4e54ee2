"""Searches one cluster of candidates for users that have an interest in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.model.comparators import SquaredL2
from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE, find_best, list_shape
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.products import Candidates
from twhin_core.ranking.projections import Projections
from twhin_core.ranking.queries import Ints
from twhin_core.vectors.rows import Rows

PULL = 1 / 3
"""How far a user's point moves to the centroid of its items in a cluster before that cluster is searched."""

PAIRS_AT_ONCE = 65_536
"""Pairs of nodes whose vectors are in memory at once."""


@dataclass(frozen=True)
class Asked:
    """n users who want candidates of a cluster."""

    points: Tensor
    """float32 [n, dim], their points (`Scorer.query_points`)."""
    own: Tensor
    """float32 [n, width], their queries."""
    places: Ints
    """[n] how many candidates each wants, above 0; the cluster has as many."""
    history: tuple[Ints, Ints]
    """(number of the user, item) of their edges to items of the cluster."""
    left_out: tuple[Ints, Ints]
    """(number of the user, column) of what they must not get."""


@dataclass(frozen=True)
class Picked:
    """E candidates."""

    user: Ints
    """[E] number of the user."""
    row: Ints
    """[E] row of the candidates' table."""
    due: npt.NDArray[np.float64]
    """[E] (i + 1/2) / places for number i of a user, which divides the beginnings of its list in proportion."""
    product: npt.NDArray[np.float32]
    """[E] with the user's own query."""

    @staticmethod
    def joined(parts: list[Picked]) -> Picked:
        return Picked(
            np.concatenate([np.empty(0, np.int64), *(part.user for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.row for part in parts)]),
            np.concatenate([np.empty(0, np.float64), *(part.due for part in parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.product for part in parts)]),
        )


class ClusterSearch:
    """Searches clusters of the candidates of a relation."""

    def __init__(self, scorer: Scorer, projections: Projections, items: Rows, rel: int) -> None:
        """`items`: the vectors of the rhs table."""
        self._scorer, self._projections, self._items, self._rel = scorer, projections, items, rel

    @torch.inference_mode()
    def find(self, cluster: CandidateSet, asked: Asked) -> Picked:
        """The best candidates of a cluster for each user, as many as it wants.

        Raises:
            UserError: a score is not finite.
        """
        assert cluster.drawn is not None
        queries = self._scorer.comparator.query(self._moved(asked))
        queries = torch.cat([queries, asked.own[:, queries.shape[1] :]], 1)  # the coordinate of the prior, if any
        shape = list_shape(len(queries), cluster.size, self._projections.arithmetic.device)
        candidates = self._projections.candidates(cluster, shape)
        with Progress("clusters", 1, "scores", quiet=True) as progress:
            _, columns = find_best(queries, candidates, int(asked.places.max()), asked.left_out, progress)
        is_asked = np.arange(columns.shape[1]) < asked.places[:, None]
        user, place = np.nonzero(is_asked)
        column = columns.numpy()[is_asked]
        assert (column != NONE).all()
        due = (place + 0.5) / asked.places[user]
        return Picked(user, cluster.drawn[column], due, _products(candidates, asked.own, user, column))

    def _moved(self, asked: Asked) -> Tensor:
        """The users' points, `PULL` of the way to the centroids of their items; those without items as they are.

        Where lengths do not count or scale all scores of a query, the centroid gets the length of the user's point.
        """
        sums, count = torch.zeros_like(asked.points), np.bincount(asked.history[0], minlength=len(asked.points))
        order = np.argsort(asked.history[1], kind="stable")
        for start in range(0, len(order), PAIRS_AT_ONCE):
            user, item = (of[order[start : start + PAIRS_AT_ONCE]] for of in asked.history)
            rows, at = np.unique(item, return_inverse=True)
            rel = torch.full((1, len(rows)), self._rel)
            points = self._scorer.answer_points("rhs", rel, self._items.gather(rows)[None])[0]
            sums.index_add_(0, torch.from_numpy(user), points[torch.from_numpy(at)])
        count_of = torch.from_numpy(np.maximum(count, 1)).unsqueeze(1)
        centroids = sums / count_of
        if not isinstance(self._scorer.comparator, SquaredL2):
            centroids = torch.nn.functional.normalize(centroids) * asked.points.norm(dim=1, keepdim=True)
        has_items = torch.from_numpy(count > 0).unsqueeze(1)
        return torch.where(has_items, torch.lerp(asked.points, centroids, PULL), asked.points)


def _products(candidates: Candidates, queries: Tensor, query: Ints, column: Ints) -> npt.NDArray[np.float32]:
    """The products of pairs of a query and a candidate: float32 [E]."""
    order = np.argsort(column, kind="stable")
    products = np.empty(len(order), np.float32)
    for start, factor in candidates.blocks():
        first, last = np.searchsorted(column[order], [start, start + len(factor)])
        for at in range(first, last, PAIRS_AT_ONCE):
            pairs = order[at : min(at + PAIRS_AT_ONCE, last)]
            of = factor[torch.from_numpy(column[pairs] - start).to(factor.device)]
            products[pairs] = (of * candidates.arithmetic.factor(queries[torch.from_numpy(query[pairs])])).sum(1).cpu()
    return products
