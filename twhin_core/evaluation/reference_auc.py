"""The AUC of the reference implementation: how often a held-out edge outscores a negative of its batch.

In the reference, an evaluation batch has `in_batch_negatives` nodes per relation and side, a random permutation of the
nodes of the batch's own edges of that relation, and each is scored with every edge of that relation. It draws 128 pairs
of a positive and a negative from the batch, whatever their relation, side or query. The figure is the share of pairs
whose positive scores strictly higher, averaged over batches. This module computes its expectation by counting all
pairs. Nothing is filtered: a negative may be a known edge, or the positive itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.ranking.queries import split_by
from twhin_core.schema import OTHER, SIDES, Schema

if TYPE_CHECKING:
    import numpy.typing as npt

    from twhin_core.model.scorer import Scorer
    from twhin_core.vectors.prior import Prior
    from twhin_core.vectors.rows import Rows

    Scores = npt.NDArray[np.float32]

NEGATIVES = 10
"""Per relation and side, if training takes none from the batch."""

MOST_SCORES = 1 << 24
"""Of the negatives of a batch; larger batches are cut down."""


def reference_auc(
    scorer: Scorer,
    tables: Mapping[str, Rows],
    schema: Schema,
    edges: Edges,
    config: Config,
    prior: Prior | None = None,
) -> float:
    """The AUC of the first `num_eval_steps` batches of `per_replica_batch_size` of the held-out `edges`."""
    data, generator = config.train_data, np.random.default_rng([config.evaluation.seed, 5])
    negatives = data.in_batch_negatives or NEGATIVES
    size = max(1, min(data.per_replica_batch_size, MOST_SCORES // (2 * negatives)))
    shares = []
    for start in range(0, len(edges), size)[: config.training.num_eval_steps]:
        batch = edges.take(slice(start, start + size))
        positive, negative = _scores(scorer, prior, tables, schema, batch, negatives, generator)
        shares.append(np.searchsorted(np.sort(negative), positive).mean() / len(negative))
    return float(np.mean(shares))


def _scores(
    scorer: Scorer,
    prior: Prior | None,
    tables: Mapping[str, Rows],
    schema: Schema,
    batch: Edges,
    negatives: int,
    generator: np.random.Generator,
) -> tuple[Scores, Scores]:
    """Scores of the positives and of the negatives of a batch, of both sides, in no order."""
    import torch

    from twhin_core.ranking.projections import gather_vectors

    vectors = {side: gather_vectors(tables, schema, side, batch.rel, getattr(batch, side)) for side in SIDES}
    positive, negative = [], []
    with torch.inference_mode():
        for each, edges in split_by(batch.rel):
            of = torch.from_numpy(edges)
            rels, ends = torch.full((1, len(of)), each), {side: vectors[side][of][None] for side in SIDES}
            for side in SIDES:
                drawn = torch.from_numpy(np.resize(generator.permutation(len(of)), negatives))
                of_edges = scorer.edges(side, rels, ends["lhs"], ends["rhs"])[0]
                of_drawn = scorer.candidates(side, rels, ends[OTHER[side]], ends[side][:, drawn])[0]
                if prior is not None:
                    priors = prior.column(side, each)(getattr(batch, side)[edges])
                    of_edges, of_drawn = of_edges + priors, of_drawn + priors[drawn]
                positive.append(of_edges)
                negative.append(of_drawn.flatten())
    return torch.cat(positive).numpy(), torch.cat(negative).numpy()
