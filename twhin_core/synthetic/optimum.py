"""The best metrics that any model can reach on a generated network: those of a ranker that knows the planted rates.

An edge exists if at least one interaction was drawn, with probability 1 - exp(-n · rate). Given all other edges, a
higher rate therefore makes a held-out edge more likely, for either side, and no ranking beats the ranking by rate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twhin_core.synthetic.planted import Floats, Ints, Planted

SAMPLE_SHARE = 0.05
SAMPLE_LIMIT = 20_000
HITS_AT = (1, 3, 10)
RECALL_AT = 20
BLOCK = 1 << 22  # scores in memory at a time


def best_metrics(
    relations: list[Planted], edges: list[tuple[Ints, Ints]], rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Filtered ranking metrics of the ranker by planted rate, with a random sample of the network's edges as test set.

    Args:
        relations: the planted relations.
        edges: the distinct (lhs, rhs) of each relation.

    Returns:
        By relation, and under `all` for all together: `mrr` and `hits@k` over both sides, with each rank filtered by
        all other edges; `recall@20`, the mean over queries (lhs, relation) of the share of their sampled tails that is
        in the top 20, ignoring tails of edges outside the sample; `edges`, the size of the sample.
    """
    total = sum(len(lhs) for lhs, _ in edges)
    share = min(SAMPLE_SHARE, SAMPLE_LIMIT / total)
    ranks: dict[str, Floats] = {}
    recalls: dict[str, Floats] = {}
    for planted, (lhs, rhs) in zip(relations, edges, strict=True):
        sampled = np.zeros(len(lhs), bool)
        sampled[rng.choice(len(lhs), max(1, round(share * len(lhs))), replace=False)] = True
        name = planted.kind.name
        ranks[name] = np.stack(
            [
                _ranks(planted, "rhs", lhs[sampled], rhs[sampled], lhs, rhs),
                _ranks(planted, "lhs", rhs[sampled], lhs[sampled], rhs, lhs),
            ]
        )
        recalls[name] = _recalls(planted, lhs, rhs, sampled)
    ranks["all"] = np.concatenate(list(ranks.values()), axis=1)
    recalls["all"] = np.concatenate(list(recalls.values()))
    return {name: _metrics(ranks[name], recalls[name]) for name in ["all", *(p.kind.name for p in relations)]}


def _metrics(ranks: Floats, recalls: Floats) -> dict[str, float]:
    hits = {f"hits@{k}": float((ranks <= k).mean()) for k in HITS_AT}
    return {
        "mrr": float((1 / ranks).mean()),
        **hits,
        f"recall@{RECALL_AT}": float(recalls.mean()),
        "edges": ranks.shape[1],
    }


def _recalls(planted: Planted, lhs: Ints, rhs: Ints, sampled: npt.NDArray[np.bool_]) -> Floats:
    """The recall@20 of each lhs with a sampled edge."""
    places = _ranks(planted, "rhs", lhs[sampled], rhs[sampled], lhs[~sampled], rhs[~sampled])
    queries, query = np.unique(lhs[sampled], return_inverse=True)
    found = np.bincount(query, places <= RECALL_AT, minlength=len(queries))
    recalls: Floats = found / np.bincount(query)
    return recalls


def _ranks(planted: Planted, side: str, given: Ints, answer: Ints, known_given: Ints, known: Ints) -> Floats:
    """The rank of each answer: 1 + the nodes of `side` with a higher rate + half of those with the same rate.

    Does not count the answer itself, nor the nodes that `known_given` and `known` connect with the query.
    """
    order = np.argsort(known_given, kind="stable")
    known_given, known = known_given[order], known[order]
    first, last = (np.searchsorted(known_given, given, side=end) for end in ("left", "right"))
    size = len(planted.popularity) if side == "rhs" else len(planted.activity)
    nodes = np.arange(size)[None]
    ranks = np.empty(len(given))
    step = max(1, BLOCK // size)
    for start in range(0, len(given), step):
        block = slice(start, start + step)
        asked = given[block, None]
        rates = planted.rates(asked, nodes) if side == "rhs" else planted.rates(nodes, asked)
        rows = np.arange(len(rates))
        own = rates[rows, answer[block]]
        counts = (last - first)[block]
        entries = np.repeat(first[block] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        rates[np.repeat(rows, counts), known[entries]] = -1
        rates[rows, answer[block]] = -1
        higher, same = (rates > own[:, None]).sum(1), (rates == own[:, None]).sum(1)
        ranks[block] = 1 + higher + same / 2
    return ranks
