"""The AUC of the reference implementation: how often a held-out edge outscores a negative of its batch.

There, an evaluation batch has `in_batch_negatives` nodes per relation and side, taken by a random permutation of the
batch's own edges of that relation, and each is scored with every edge of that relation. 128 pairs of a positive and a
negative are drawn from the batch, whatever their relation, side or query; the figure is the share of pairs whose
positive scores higher, ties not included, averaged over batches. This is its expectation over the draws: all pairs are
counted. Nothing is filtered: a negative may be a known edge, or the positive itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.evaluation.queries import Ints
from twhin_core.evaluation.rankers import gather_vectors
from twhin_core.model.scorer import Scorer
from twhin_core.schema import OTHER, SIDES, Schema, Side
from twhin_core.vectors.rows import Rows

NEGATIVES = 10
"""Per relation and side, where training takes none from the batch."""

MOST_SCORES = 1 << 24
"""Of the negatives of a batch; larger batches are cut down."""


@torch.inference_mode()
def reference_auc(
    scorer: Scorer, tables: Mapping[str, Rows], schema: Schema, chunks: Iterable[Edges], config: Config
) -> float:
    """Of the first `num_eval_steps` batches of `per_replica_batch_size` held-out edges, in data set order."""
    data, generator = config.train_data, np.random.default_rng([config.evaluation.seed, 5])
    negatives = data.in_batch_negatives or NEGATIVES
    size = max(1, min(data.per_replica_batch_size, MOST_SCORES // (2 * negatives)))
    shares = []
    for number, batch in enumerate(_batches(chunks, size)):
        if number == config.training.num_eval_steps:
            break
        vectors = {side: gather_vectors(tables, schema, side, batch.rel, getattr(batch, side)) for side in SIDES}
        positive, negative = _scores(scorer, vectors, batch.rel, negatives, generator)
        below = torch.searchsorted(negative.sort().values, positive)
        shares.append(float(below.double().mean()) / len(negative))
    return float(np.mean(shares))


def _scores(
    scorer: Scorer, vectors: Mapping[Side, Tensor], rel: Ints, negatives: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Scores of the positives and of the negatives of a batch, on both sides, in no order."""
    positive, negative = [], []
    for each in np.unique(rel).tolist():
        of = torch.from_numpy(np.flatnonzero(rel == each))
        rels, ends = torch.full((1, len(of)), each), {side: vectors[side][of][None] for side in SIDES}
        for side in SIDES:
            drawn = torch.from_numpy(np.resize(generator.permutation(len(of)), negatives))
            positive.append(scorer.edges(side, rels, ends["lhs"], ends["rhs"]).flatten())
            negative.append(scorer.candidates(side, rels, ends[OTHER[side]], ends[side][:, drawn]).flatten())
    return torch.cat(positive), torch.cat(negative)


def _batches(chunks: Iterable[Edges], size: int) -> Iterator[Edges]:
    """The same edges, `size` at a time, the last ones fewer."""
    held: list[Edges] = []
    for chunk in chunks:
        held.append(chunk)
        while sum(map(len, held)) >= size:
            whole = Edges.joined(held)
            yield whole.take(slice(0, size))
            held = [whole.take(slice(size, len(whole)))]
    if sum(map(len, held)):
        yield Edges.joined(held)
