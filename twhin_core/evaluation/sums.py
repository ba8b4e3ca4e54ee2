"""What the figures are made of: sums over the queries of a relation, of a degree bucket, of a bootstrap group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from twhin_core.config import Evaluation
from twhin_core.evaluation.held_out import HeldOut
from twhin_core.evaluation.metrics import AUC, MRR
from twhin_core.evaluation.placing import Outcome
from twhin_core.evaluation.queries import Ints
from twhin_core.evaluation.ranking import Floats, Places
from twhin_core.schema import SIDES, Side


@dataclass(frozen=True)
class Ranked:
    """All held-out edges as one model or baseline ranks them. Its queries are those for the lhs, then for the rhs."""

    held: Mapping[Side, HeldOut]
    outcomes: Mapping[Side, Outcome]
    places: Mapping[Side, Places]

    def values(self, side: Side, hits_at: list[int]) -> dict[str, Floats]:
        """[H] what each held-out edge adds to a figure."""
        rank, rivals = self.places[side].rank, self.outcomes[side].rivals
        hits = {f"hits@{k}": (rank <= k).astype(np.float64) for k in hits_at}
        auc = np.where(rivals > 0, 1 - (rank - 1) / np.maximum(rivals, 1), 0.5)
        return {MRR: 1 / rank, **hits, AUC: auc}


@dataclass(frozen=True)
class Sums:
    """A figure is `of[name] / over[name]`, each [n], for every of n labels."""

    of: dict[str, Floats]
    over: dict[str, Floats]

    def figure(self, name: str, label: int) -> float:
        """0 where there is nothing to sum up."""
        return float(self.of[name][label] / max(self.over[name][label], 1e-300))


def sum_up(ranked: Ranked, evaluation: Evaluation, labels: Mapping[str, Ints]) -> dict[str, Sums]:
    """The sums by each kind of label, which is given for every query; a label may be any small number from 0 on."""
    sizes = {kind: 1 + int(label.max(initial=-1)) for kind, label in labels.items()}
    sums = {kind: Sums({}, {}) for kind in labels}
    for name, of, over in _terms(ranked, evaluation):
        for kind, label in labels.items():
            sums[kind].of[name] = weighted(label, of, sizes[kind])
            sums[kind].over[name] = weighted(label, over, sizes[kind])
    return sums


def _terms(ranked: Ranked, evaluation: Evaluation) -> Iterator[tuple[str, Floats, Floats]]:
    """(name, of, over), each [queries]: what each query adds to a figure."""
    nothing = {side: np.zeros(ranked.held[side].queries) for side in SIDES}

    def alone(side: Side, values: Floats) -> Floats:
        return np.concatenate([values if other == side else nothing[other] for other in SIDES])

    edges = {side: _of_queries(ranked.held[side], np.ones(len(ranked.held[side]))) for side in SIDES}
    for side in SIDES:
        yield f"edges_{side}", alone(side, edges[side]), alone(side, np.ones_like(edges[side]))
    for name in ranked.values("rhs", evaluation.hits_at):
        of = {side: _of_queries(ranked.held[side], ranked.values(side, evaluation.hits_at)[name]) for side in SIDES}
        yield name, np.concatenate(list(of.values())), np.concatenate(list(edges.values()))
        for side in SIDES:
            yield f"{name}_{side}", alone(side, of[side]), alone(side, edges[side])
    for name, values, kept in _whole_sets(ranked.held["rhs"], ranked.places["rhs"], evaluation.recall_at):
        yield name, alone("rhs", values), alone("rhs", kept)


def _of_queries(held: HeldOut, values: Floats) -> Floats:
    return weighted(held.query, values * held.edges, held.queries)


def _whole_sets(held: HeldOut, places: Places, recall_at: list[int]) -> Iterator[tuple[str, Floats, Floats]]:
    """recall@k and ndcg@k of each query, and whether it has any: a query whose held-out tails are all removed has
    none."""
    kept = np.flatnonzero(~np.isnan(places.position))
    query, position = held.query[kept], places.position[kept]
    held_out = np.bincount(query, minlength=held.queries)
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, 1 + max(recall_at))))
    for k in recall_at:
        among = position <= k
        found = np.bincount(query, among, minlength=held.queries)
        gain = np.bincount(query, among / np.log2(1 + position), minlength=held.queries)
        most = np.maximum(held_out, 1)
        yield f"recall@{k}", found / most, (held_out > 0).astype(np.float64)
        yield f"ndcg@{k}", gain / ideal[np.minimum(k, most) - 1], (held_out > 0).astype(np.float64)


def weighted(label: Ints, values: Floats, size: int) -> Floats:
    """The sum of the values of each label: [size]."""
    return np.bincount(label, values, minlength=size).astype(np.float64)
