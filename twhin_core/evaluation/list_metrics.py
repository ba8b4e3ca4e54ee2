"""Figures of lists of candidates: what they hit of the held-out answers, and which candidates they show.

Of a user with the held-out answers R and the list L, of which the first k count:

- `recall@k`: |L ∩ R| / |R|; `hit_rate@k`: 1 if L ∩ R is not empty, else 0.
- `ndcg@k`: the discounted gain of the hits, divided by that of min(k, |R|) hits at the top; gain 1, discount
  1/log2(1 + rank) (Järvelin and Kekäläinen, 2002).
- `map@k`: the sum over the hits of the precision at their ranks, divided by min(k, |R|) (average precision, as in
  Manning, Raghavan and Schütze, 2008, cut off at k).
- `novelty@k`: the mean self-information -log2 p of the listed candidates, in bits (Zhou et al., 2010); p is a
  candidate's share of the relation's training edges, (edges + 1) / (all edges + nodes of the table).
- `popularity@k`: the mean number of training edges of the relation that the listed candidates have.
- `diversity@k`: 1 - the mean cosine of the vectors of all pairs in the list (1 - the intra-list similarity of Ziegler
  et al., 2005). A list of fewer than two candidates has none.

A figure is the mean over users. Of all lists together:

- `coverage@k`: the share of the candidates that are in a list (Herlocker et al., 2004).
- `gini@k`: the Gini coefficient of how many lists each candidate is in (Fleder and Hosanagar, 2009): 0 if all are in
  equally many, near 1 if a few are in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twhin_core.config import Evaluation
from twhin_core.data.frequencies import PSEUDO_COUNT
from twhin_core.evaluation.metrics import MODEL, Metrics
from twhin_core.ranking.queries import Floats, Ints

LISTS = "lists"
"""Key of these figures in the metrics, and the first word of their names in gates."""

ACCURACY = ("recall", "hit_rate", "ndcg", "map")
SHOWN = ("novelty", "popularity", "diversity")
CATALOG = ("coverage", "gini")

DECILES = "deciles"

WITHOUT_PRIOR = "without prior"
"""The source of lists by the same vectors, where `model.prior` counts in the model's."""

Lists = dict[str, Any]
"""The figures of lists in `evaluation/metrics.json`, in this shape:

    {"config": "<digest>",                          of what they depend on besides the checkpoint and `evaluation`
     "relations": {"<relation>": {
        "at": [10, 50, 100],
        "users": 9876, "answers": 23456,            held out, and not left out of the lists
        "candidates": 5432, "reachable": 23001,     answers that are candidates
        "figures": {"model": {"recall@10": …, …}, "popularity": {…}},
        "intervals": {"model": {"recall@10": [low, high], …}, …},           95 %, over users
        "degrees": {"model": {"1-9": {"users": …, "recall@10": …, …}, …}, …},    of the users, in all relations
        "deciles": {"model": [{"from": 0, "to": 3, "answers": 123, "recall@10": …, …}, …], …},
                                                    of the answers by their training edges: see `deciles.py`
        "sources": {"model": {"vector": {"listed@10": …, "hits@10": …, …}}, …}}}}

Beside `model` are `without prior`, if the model has a prior for the rhs, and the baselines. Metrics of earlier releases
lack the deciles.
"""


def list_names(at: Iterable[int], stems: Sequence[str] = (*ACCURACY, *SHOWN, *CATALOG)) -> list[str]:
    """The names of figures, in order."""
    lengths = list(at)
    return [f"{stem}@{k}" for stem in stems for k in lengths]


def figures_of_lists(metrics: Metrics, source: str = MODEL) -> dict[str, float]:
    """The figures of the lists of the model, or of a baseline, by the names that gates give them."""
    return {
        f"{LISTS}.{relation}.{name}": float(value)
        for relation, of in metrics.get(LISTS, {"relations": {}})["relations"].items()
        for name, value in of["figures"].get(source, {}).items()
    }


def lengths_of(evaluation: Evaluation, k: int) -> list[int]:
    """The lengths at which lists of `k` candidates are measured."""
    return [] if evaluation.lists is None else evaluation.lists.at(k)


def accuracy(hits: npt.NDArray[np.bool_], answers: Ints, at: Sequence[int]) -> dict[str, Floats]:
    """[U] of each user, by name.

    Args:
        hits: [U, K] whether each candidate of a list, best first, is a held-out answer.
        answers: [U] the number of these, above 0.
    """
    rank = np.arange(1, 1 + hits.shape[1])
    gain = np.cumsum(hits / np.log2(1 + rank), 1)
    precision = np.cumsum(hits * np.cumsum(hits, 1) / rank, 1)
    found, ideal = np.cumsum(hits, 1), np.cumsum(1 / np.log2(1 + np.arange(1, 1 + max(at))))
    values: dict[str, Floats] = {}
    for k in at:
        last, most = min(k, hits.shape[1]) - 1, np.minimum(k, answers)
        values |= {
            f"recall@{k}": found[:, last] / answers,
            f"hit_rate@{k}": (found[:, last] > 0).astype(np.float64),
            f"ndcg@{k}": gain[:, last] / ideal[most - 1],
            f"map@{k}": precision[:, last] / most,
        }
    return values


def self_information(edges: Ints) -> Floats:
    """[N] of the nodes of a table, in bits. `edges`: [N] training edges of each."""
    share = (edges + PSEUDO_COUNT) / (edges.sum() + len(edges) * PSEUDO_COUNT)
    return np.asarray(-np.log2(share))


def novelty(information: Floats, is_there: npt.NDArray[np.bool_], at: Sequence[int]) -> dict[str, Floats]:
    """[U] of each user, by name; nan for empty lists.

    Args:
        information: [U, K] of each candidate of a list, best first.
        is_there: [U, K] False behind the last candidate.
    """
    return _means("novelty", information, is_there, at)


def popularity(edges: Ints, is_there: npt.NDArray[np.bool_], at: Sequence[int]) -> dict[str, Floats]:
    """As `novelty`. `edges`: [U, K] training edges of each candidate of a list, best first."""
    return _means("popularity", edges.astype(np.float64), is_there, at)


def _means(stem: str, values: Floats, is_there: npt.NDArray[np.bool_], at: Sequence[int]) -> dict[str, Floats]:
    """The mean of the first k `values` that are there."""
    total, count = np.cumsum(np.where(is_there, values, 0), 1), np.cumsum(is_there, 1, dtype=np.int64)
    lasts = {k: min(k, is_there.shape[1]) - 1 for k in at}
    return {f"{stem}@{k}": _quotient(total[:, last], count[:, last]) for k, last in lasts.items()}


def diversity(
    vectors: npt.NDArray[np.float32], is_there: npt.NDArray[np.bool_], at: Sequence[int]
) -> dict[str, Floats]:
    """[U] of each user, by name; nan for lists of fewer than two candidates.

    Args:
        vectors: [U, K, dim] of length 1 or, where a candidate has none, of zeros.
        is_there: as in `novelty`.
    """
    present = np.where(is_there[:, :, None], vectors, 0)
    values = {}
    for k in at:
        of = present[:, :k]
        count = is_there[:, :k].sum(1)
        total = of.sum(1, dtype=np.float64)
        # The sum of the cosines of all ordered pairs of different candidates.
        cosines = np.square(total).sum(1) - np.square(of).sum((1, 2), dtype=np.float64)
        values[f"diversity@{k}"] = 1 - _quotient(cosines, count * (count - 1))
    return values


def _quotient(of: Floats, over: Ints) -> Floats:
    return np.where(over > 0, of / np.maximum(over, 1), np.nan)


def coverage(times: Ints, candidates: int) -> float:
    """The share of the candidates that are in a list. `times`: how many lists each candidate is in that is in one."""
    return len(times) / candidates


def gini(times: Ints, candidates: int) -> float:
    """The Gini coefficient of how many lists each candidate is in; 0 if there are no lists. `times`: as `coverage`."""
    if not len(times):
        return 0.0
    place = np.arange(candidates - len(times), candidates) + 1  # those in no list come first
    return float(((2 * place - candidates - 1) * np.sort(times)).sum() / (candidates * times.sum()))
