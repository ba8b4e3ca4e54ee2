"""The AUC of the reference implementation: how often a held-out edge outscores a negative of its batch.

There, an evaluation batch has `in_batch_negatives` nodes a relation and side, taken by a random permutation of the
batch's own edges of that relation, each scored with every edge of that relation. 128 pairs of a positive and a negative
are drawn from all of the batch, whatever their relation, side or query; the figure is the share of pairs whose positive
scores higher, a tie being none, and the mean over batches. This is the expectation over those draws of pairs: all pairs
are counted. Nothing is filtered: a negative may be a known edge, or the positive itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from twhin_core.config import Config
from twhin_core.data.edges import Edges, concatenate
from twhin_core.evaluation.queries import Ints
from twhin_core.model.scorer import Scorer
from twhin_core.schema import SIDES, Side

NEGATIVES = 10
"""A relation and side, where training has none from the batch."""

MOST_SCORES = 1 << 24
"""Of the negatives of a batch; larger batches are made smaller."""

Gather = Callable[[Side, Ints, Ints], Tensor]
"""The vectors of the nodes on one side of edges: of relations [n] and rows [n] → [n, dim]."""


@torch.inference_mode()
def reference_auc(scorer: Scorer, gather: Gather, chunks: Iterable[Edges], config: Config) -> float:
    """Of the first `num_eval_steps` batches of `per_replica_batch_size` held-out edges, in data set order."""
    data, generator = config.train_data, np.random.default_rng([config.evaluation.seed, 5])
    negatives = data.in_batch_negatives or NEGATIVES
    size = max(1, min(data.per_replica_batch_size, MOST_SCORES // (2 * negatives)))
    shares = []
    for number, batch in enumerate(_batches(chunks, size)):
        if number == config.training.num_eval_steps:
            break
        positive, negative = _scores(scorer, gather, batch, negatives, generator)
        below = torch.searchsorted(negative.sort().values, positive)
        shares.append(float(below.double().mean()) / len(negative))
    return float(np.mean(shares))


def _scores(
    scorer: Scorer, gather: Gather, batch: Edges, negatives: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Of the positives and of the negatives of a batch, on both sides, in no order."""
    ends = {"lhs": gather("lhs", batch.rel, batch.lhs), "rhs": gather("rhs", batch.rel, batch.rhs)}
    positive, negative = [], []
    for rel in np.unique(batch.rel).tolist():
        of = torch.from_numpy(np.flatnonzero(batch.rel == rel))
        rels, lhs, rhs = torch.full((1, len(of)), rel), ends["lhs"][of][None], ends["rhs"][of][None]
        for side in SIDES:
            drawn = torch.from_numpy(np.resize(generator.permutation(len(of)), negatives))
            given, asked = (lhs, rhs) if side == "rhs" else (rhs, lhs)
            positive.append(scorer.edges(side, rels, lhs, rhs).flatten())
            negative.append(scorer.candidates(side, rels, given, asked[:, drawn]).flatten())
    return torch.cat(positive), torch.cat(negative)


def _batches(chunks: Iterable[Edges], size: int) -> Iterator[Edges]:
    """The same edges, `size` at a time, the last ones fewer."""
    held: list[Edges] = []
    for chunk in chunks:
        held.append(chunk)
        while sum(map(len, held)) >= size:
            whole = concatenate(held)
            yield whole.take(slice(0, size))
            held = [whole.take(slice(size, len(whole)))]
    if sum(map(len, held)):
        yield concatenate(held)
