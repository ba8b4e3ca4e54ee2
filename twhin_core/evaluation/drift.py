"""How far a version has moved from an earlier one, for those who use the vectors of both.

Only nodes of both versions are compared, and only they are neighbors and answers, so that new nodes are no drift. Nor
are nodes that had no training edge in the earlier version, where nothing was learned of them. If the export will be
aligned with that version (`export.align`), so are the vectors that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twhin_core.evaluation.downstream import carry_over
from twhin_core.evaluation.metrics import ALL, bucket_of, buckets
from twhin_core.evaluation.result import is_aligned
from twhin_core.ranking.queries import Floats, Ints, split_by
from twhin_core.schema import Side

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from twhin_core.config import Evaluation
    from twhin_core.evaluation.previous import Previous
    from twhin_core.evaluation.task import RankingTask
    from twhin_core.model.scorer import Scorer
    from twhin_core.vectors.prior import Prior
    from twhin_core.vectors.rows import Rows
    from twhin_core.vectors.top_k import Score

Drift = dict[str, Any]
"""The part `drift` of the metrics, in this shape:

    {"tables": {"<table>": {"all": {"nodes": 1000, "cosine": …, "distance": …, "neighbors@10": …, "rbo@10": …},
                            "0": {…}, "1-9": {…}}},                              by training degree
     "relations": {"<relation>": {"queries": 1000, "answers@10": …, "auc_before": …, "auc_now": …, "auc_kept": …}},
     "aligned": true}                                                             whether vectors were rotated first
"""

ALIGNED = "aligned"
COSINE, DISTANCE, NODES, QUERIES = "cosine", "distance", "nodes", "queries"
NEIGHBORS = "neighbors@"
"""Before the length of the lists."""
AUC_BEFORE, AUC_NOW, AUC_KEPT = "auc_before", "auc_now", "auc_kept"

PERSISTENCE = 0.9
"""Of rank-biased overlap: the first ten ranks have 86 % of its weight."""


@dataclass(frozen=True)
class Shared:
    """The n nodes of a table that the earlier version was trained on and this one has, and their vectors in either, in
    the same order.
    """

    rows: Ints
    """[n] their rows in this version, ascending."""
    earlier: Ints
    """[n] their rows in the earlier version."""
    now: Rows
    before: Rows

    def positions(self, rows: Ints) -> Ints:
        """[…] positions of those of the given rows that are shared."""
        at = np.searchsorted(self.rows, rows).clip(max=max(len(self.rows) - 1, 0))
        return at[self.rows[at] == rows] if len(self.rows) else at[:0]


def metric_names(evaluation: Evaluation) -> tuple[list[str], list[str]]:
    """The figures of a table and of a relation that gates can name."""
    k = evaluation.drift.k
    return [COSINE, DISTANCE, f"{NEIGHBORS}{k}", f"rbo@{k}"], [f"answers@{k}", AUC_BEFORE, AUC_NOW, AUC_KEPT]


def measure_drift(
    task: RankingTask,
    scorer: Scorer,
    prior: Prior | None,
    tables: Mapping[str, Rows],
    previous: Previous,
    matched: Mapping[str, Ints],
    folder: Path,
) -> Drift:
    """Compares samples of nodes, queries and held-out edges.

    Args:
        matched: by table, the earlier row of each row, or -1: int64 [rows].
        folder: for files of 8 bytes for each earlier row.
    """
    from twhin_core.vectors.rows import SelectedRows

    shared: dict[str, Shared] = {}
    for name, earlier in matched.items():
        rows = np.flatnonzero(earlier >= 0)
        if (degrees := previous.degrees(name, folder / f"degrees-{len(shared)}")) is not None:
            rows = rows[degrees[earlier[rows]] > 0]
        now = SelectedRows(tables[name], len(rows), rows)
        before = SelectedRows(previous.checkpoint.rows(name), len(rows), np.asarray(earlier[rows]))
        shared[name] = Shared(rows, np.asarray(earlier[rows]), now, before)
    same_space = task.config.model.dim == previous.config.model.dim
    aligned = same_space and is_aligned(task.config)
    exported = _aligned(shared) if aligned and shared else shared
    rng = np.random.default_rng([task.config.evaluation.seed, 11])
    found: Drift = {"tables": {}, "relations": {}, ALIGNED: aligned}
    for number, name in enumerate(task.schema.tables):
        if name in shared and len(shared[name].rows) > 1:
            found["tables"][name] = _of_table(task, number, exported[name], same_space, rng)
    for rel in previous.known.tolist():
        of = task.schema.relations[rel]
        if of.lhs in shared and of.rhs in shared:
            earlier_version = previous.own_scorer, previous.own_prior, int(previous.numbers[rel])
            figures = _answers(task, rel, (scorer, prior, rel), earlier_version, shared, rng)
            if same_space:
                figures |= _downstream(task, rel, exported[of.lhs], exported[of.rhs], rng)
            if figures:
                found["relations"][of.name] = figures
    return found


def _aligned(shared: Mapping[str, Shared]) -> dict[str, Shared]:
    """The same nodes, with this version's vectors as an export rotates them."""
    from twhin_core.vectors.rotation import fit, overlap, rotated

    overlaps = [overlap(of.now, of.before) for of in shared.values()]
    rotation = fit(overlaps).float()
    return {name: replace(of, now=rotated(of.now, rotation)) for name, of in shared.items()}


def _of_table(task: RankingTask, number: int, shared: Shared, same_space: bool, rng: np.random.Generator) -> Drift:
    """The figures of a table: of `all` sampled nodes, and of those in each degree bucket."""
    from twhin_core.vectors.top_k import similar

    evaluation = task.config.evaluation
    own = _sample(np.arange(len(shared.rows)), evaluation.drift.nodes, rng)
    now, before = shared.now.gather(own), shared.before.gather(own)
    values = _distances(now, before) if same_space else {}
    k = evaluation.drift.k
    near_now, near_before = (
        best(similar(of), own, own, rows, k) for of, rows in ((now, shared.now), (before, shared.before))
    )
    values[f"{NEIGHBORS}{k}"] = jaccard(near_now, near_before)
    values[f"rbo@{k}"] = rank_biased_overlap(near_now, near_before)
    bucket = bucket_of(task.degrees.of(np.full(len(own), number), shared.rows[own]), evaluation)
    names = buckets(evaluation)
    groups = {ALL: np.arange(len(own))} | {names[each]: members for each, members in split_by(bucket)}
    return {
        group: {NODES: len(members)} | {name: float(of[members].mean()) for name, of in values.items()}
        for group, members in groups.items()
    }


def _distances(now: Tensor, before: Tensor) -> dict[str, Floats]:
    """[n] the cosine of the two vectors of each node, and their distance relative to the earlier one's length."""
    import torch

    cosine = torch.nn.functional.cosine_similarity(now.double(), before.double(), dim=1)
    length = torch.linalg.vector_norm(before.double(), dim=1).clamp(min=1e-12)
    distance = torch.linalg.vector_norm(now.double() - before.double(), dim=1) / length
    return {COSINE: cosine.numpy(), DISTANCE: distance.numpy()}


def _answers(
    task: RankingTask,
    rel: int,
    now: tuple[Scorer, Prior | None, int],
    before: tuple[Scorer, Prior | None, int],
    shared: Mapping[str, Shared],
    rng: np.random.Generator,
) -> dict[str, float]:
    """`answers@k`: the share of the earlier version's best answers that are among this version's, over queries.

    `now` and `before`: a scorer, its prior, and the number that the relation has there.
    """
    from twhin_core.vectors.top_k import answers

    side: Side = "rhs"
    drift, of, held = task.config.evaluation.drift, task.schema.relations[rel], task.held[side]
    heads, tails = shared[of.lhs], shared[of.rhs]
    nodes = _sample(heads.positions(held.node[held.first][held.rel[held.first] == rel]), drift.nodes, rng)
    if not len(nodes) or len(tails.rows) < 2:
        return {}
    own = nodes if of.lhs == of.rhs else None
    found = [
        best(
            answers(scorer, side, number, given.gather(nodes)), nodes, own,
            _with_prior(candidates, prior, side, number, rows), drift.k,
        )
        for (scorer, prior, number), given, candidates, rows in (
            (now, heads.now, tails.now, tails.rows), (before, heads.before, tails.before, tails.earlier)
        )
    ]  # fmt: skip
    return {QUERIES: len(nodes), f"answers@{drift.k}": float(common(*found).mean() / found[0].shape[1])}


def _with_prior(candidates: Rows, prior: Prior | None, side: Side, number: int, rows: Ints) -> Rows:
    """The candidates as `answers` takes them. `rows`: theirs in the version that the prior is of."""
    from twhin_core.vectors.rows import WithColumn

    if prior is None or side not in prior.sides:
        return candidates
    column = prior.column(side, number)
    return WithColumn(candidates, lambda positions: column(rows[positions]))


def _downstream(
    task: RankingTask, rel: int, heads: Shared, tails: Shared, rng: np.random.Generator
) -> dict[str, float]:
    """What a classifier that was fitted to the earlier vectors does on this version's (see `downstream`)."""
    held = task.held["rhs"]
    edges = np.flatnonzero(held.rel == rel)
    known = np.isin(held.node[edges], heads.rows) & np.isin(held.answer[edges], tails.rows)
    edges = _sample(edges[known], task.config.evaluation.drift.nodes, rng)
    lhs, rhs = heads.positions(held.node[edges]), tails.positions(held.answer[edges])
    drawn = rng.integers(len(tails.rows), size=len(edges))
    at = np.concatenate([lhs, lhs]), np.concatenate([rhs, drawn])
    is_edge = np.arange(len(at[0])) < len(edges)
    features = [
        (heads_of.gather(at[0]) * tails_of.gather(at[1])).double()
        for heads_of, tails_of in ((heads.before, tails.before), (heads.now, tails.now))
    ]
    carried = carry_over(features[0], features[1], is_edge, rng)
    if carried is None:
        return {}
    return {AUC_BEFORE: carried.before, AUC_NOW: carried.now, AUC_KEPT: carried.now / carried.before}


def best(score: Score, queries: Ints, own: Ints | None, candidates: Rows, k: int) -> Ints:
    """[Q, k] positions of the best candidates, best first; `own`: the candidate that each query leaves out."""
    import torch

    from twhin_core.vectors.top_k import top_k

    exclude = None if own is None else torch.from_numpy(own)
    places: Ints = top_k(score, len(queries), candidates, k, exclude)[1].numpy()
    return places


def jaccard(a: Ints, b: Ints) -> Floats:
    """[Q] of the sets in the rows of two arrays [Q, k]: the size of the intersection over that of the union."""
    both = common(a, b)
    jaccard: Floats = both / (2 * a.shape[1] - both)
    return jaccard


def rank_biased_overlap(a: Ints, b: Ints, p: float = PERSISTENCE) -> Floats:
    """[Q] of the lists in the rows of two arrays [Q, k], best first.

    Extrapolated from equally long lists (Webber, Moffat and Zobel, 2010, equation 30):
    X_k/k · p^k + (1 - p)/p · Σ_{d ≤ k} X_d/d · p^d, where X_d is the number that the first d of both share.
    """
    depth = np.arange(1, a.shape[1] + 1)
    shared = (a[:, :, None] == b[:, None, :]).cumsum(1).cumsum(2)[:, depth - 1, depth - 1] / depth
    overlap: Floats = shared[:, -1] * p ** depth[-1] + (1 - p) / p * (shared * p**depth).sum(1)
    return overlap


def common(a: Ints, b: Ints) -> Floats:
    """[Q] how many values the rows of two arrays [Q, k] share."""
    shared: Floats = (a[:, :, None] == b[:, None, :]).sum((1, 2)).astype(np.float64)
    return shared


def _sample(values: Ints, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most `count` of the values, in their order."""
    values = np.unique(values)
    return values if len(values) <= count else np.sort(rng.choice(values, count, replace=False))
