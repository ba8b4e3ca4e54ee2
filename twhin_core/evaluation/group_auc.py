"""GAUC: how often a held-out answer outscores the explicit negatives of its own query.

    gauc = Σ_e AUC(e) / E,  AUC(e) = (|{n ∈ N(e): s(n) < s(e)}| + ½ |{n ∈ N(e): s(n) = s(e)}|) / |N(e)|

over the E held-out edges e whose query (lhs, rel, ?) has explicit negatives N(e) in the evaluated split, with scores s.
It is the AUC of each query, weighted by its answers (Zhu et al., KDD 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from twhin_core.data.edges import Edges
from twhin_core.data.negative_lists import NegativeLists, numbers_of_negatives
from twhin_core.evaluation.metrics import ALL, GAUC, Figures
from twhin_core.ranking.queries import Floats, Ints, split_by
from twhin_core.schema import SIDES, Schema

if TYPE_CHECKING:
    from twhin_core.model.scorer import Scorer
    from twhin_core.vectors.prior import Prior
    from twhin_core.vectors.rows import Rows

PAIRS_AT_ONCE = 1 << 16
"""Pairs of nodes that are scored at once."""


def group_auc(
    scorer: Scorer,
    tables: Mapping[str, Rows],
    schema: Schema,
    held: Edges,
    lists: NegativeLists,
    prior: Prior | None = None,
) -> Figures:
    """The GAUC of each relation that has one, and of `all` of their edges.

    Args:
        held: the held-out edges.
        lists: the explicit negatives of the same split.
    """
    begin, count = lists.of(numbers_of_negatives(schema)[held.rel], held.lhs)
    asked = np.flatnonzero(count)
    found: Figures = {}
    total = np.zeros(len(asked))
    for rel, edges in split_by(held.rel[asked]):
        of = asked[edges]
        lhs, first, inverse = np.unique(held.lhs[of], return_index=True, return_inverse=True)
        counts = count[of][first]
        starts = np.concatenate([[0], counts.cumsum()])
        of_query = np.repeat(np.arange(len(lhs)), counts)
        nodes = lists.node[np.arange(starts[-1]) + (begin[of][first] - starts[:-1])[of_query]]
        positive = _scores(scorer, tables, schema, prior, rel, held.lhs[of], held.rhs[of])
        negative = _scores(scorer, tables, schema, prior, rel, lhs[of_query], nodes)
        total[edges] = _shares_below(positive, inverse, negative, of_query, starts)
        found[schema.names[rel]] = {GAUC: float(total[edges].mean())}
    return {ALL: {GAUC: float(total.mean())}, **found} if len(asked) else {}


def _shares_below(positive: Floats, query: Ints, negative: Floats, of_query: Ints, starts: Ints) -> Floats:
    """The share of its query's negatives that each positive outscores, a tie counting half.

    Args:
        query: of each positive, ascending numbers from 0 on.
        of_query: the query of each negative, ascending; those of query q are at starts[q] … starts[q + 1] - 1.
    """
    _, place = np.unique(np.concatenate([positive, negative]), return_inverse=True)
    places = len(place) + 1
    keys = np.sort(of_query * places + place[len(positive) :])
    wanted = query * places + place[: len(positive)]
    twice = np.searchsorted(keys, wanted) + np.searchsorted(keys, wanted, side="right") - 2 * starts[query]
    shares: Floats = twice / (2 * np.diff(starts)[query])
    return shares


def _scores(
    scorer: Scorer, tables: Mapping[str, Rows], schema: Schema, prior: Prior | None, rel: int, lhs: Ints, rhs: Ints
) -> Floats:
    """The scores of pairs of a relation as answers to their queries for the rhs: [n]."""
    import torch

    from twhin_core.ranking.projections import gather_vectors

    found = np.empty(len(lhs))
    for start in range(0, len(lhs), PAIRS_AT_ONCE):
        of = slice(start, start + PAIRS_AT_ONCE)
        rels = np.full(len(lhs[of]), rel)
        nodes = {"lhs": lhs[of], "rhs": rhs[of]}
        ends = [gather_vectors(tables, schema, side, rels, nodes[side]) for side in SIDES]
        with torch.inference_mode():
            scores = scorer.edges("rhs", torch.from_numpy(rels), *ends)
            if prior is not None:
                scores = scores + prior.column("rhs", rel)(rhs[of])
        found[of] = scores.numpy()
    return found
