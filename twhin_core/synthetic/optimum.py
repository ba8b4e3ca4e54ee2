"""The best metrics that any model can reach on a generated network: those of ranking by the planted rates.

An edge exists if at least one interaction was drawn, with probability 1 - exp(-n · rate). Given all other edges, the
probability of a held-out edge therefore increases with its rate, whichever end is asked for, and no ranking is better
than that by rate.
"""

from __future__ import annotations

import numpy as np

from twhin_core.synthetic.planted import Floats, Ints, Planted

SAMPLE_SHARE = 0.05
SAMPLE_LIMIT = 20_000
HITS_AT = (1, 3, 10)
RECALL_AT = 20
BLOCK = 1 << 22  # scores computed at a time


def best_metrics(
    relations: list[Planted], edges: list[tuple[Ints, Ints]], rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Filtered metrics of ranking by the planted rates, with a random sample of the network's edges as the test set.

    Args:
        relations: the planted relations.
        edges: the distinct (lhs, rhs) of each relation.

    Returns:
        By relation, and under `all` for all together: `mrr` and `hits@k` over both sides, with each rank filtered by
        all other edges; `recall@20`, the mean over queries (lhs, relation) of the share of their sampled tails that is
        in the top 20, ignoring tails of edges outside the sample; `edges`, the size of the sample.
    """
    share = min(SAMPLE_SHARE, SAMPLE_LIMIT / sum(len(lhs) for lhs, _ in edges))
    ranks: dict[str, Floats] = {}
    recalls: dict[str, Floats] = {}
    for planted, (lhs, rhs) in zip(relations, edges, strict=True):
        sampled = np.zeros(len(lhs), bool)
        sampled[rng.choice(len(lhs), max(1, round(share * len(lhs))), replace=False)] = True
        head, tail = lhs[sampled], rhs[sampled]
        of_sides = _ranks(planted, "rhs", head, tail, lhs, rhs), _ranks(planted, "lhs", tail, head, rhs, lhs)
        ranks[planted.kind.name] = np.stack(of_sides)
        places = _ranks(planted, "rhs", head, tail, lhs[~sampled], rhs[~sampled])
        _, query = np.unique(head, return_inverse=True)
        recalls[planted.kind.name] = np.bincount(query, places <= RECALL_AT) / np.bincount(query)
    ranks = {"all": np.concatenate(list(ranks.values()), axis=1), **ranks}
    recalls["all"] = np.concatenate(list(recalls.values()))
    return {
        name: {
            "mrr": float((1 / of).mean()),
            **{f"hits@{k}": float((of <= k).mean()) for k in HITS_AT},
            f"recall@{RECALL_AT}": float(recalls[name].mean()),
            "edges": of.shape[1],
        }
        for name, of in ranks.items()
    }


def _ranks(planted: Planted, side: str, given: Ints, answer: Ints, known_given: Ints, known: Ints) -> Floats:
    """The rank of each answer: 1 + the nodes of `side` with a higher rate + half of those with the same rate.

    Neither the answer itself counts nor the `known` nodes whose `known_given` is the query's.
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
