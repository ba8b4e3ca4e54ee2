"""Explicit negatives of a batch: for each positive, some of those that its own query (lhs, rel, ?) is known to have.

They are chosen, not drawn from a distribution over the table, so logQ does not correct them: a correction turns draws
into an estimate of a sum over the table, of which they are no sample. What they weigh is the config's choice. The prior
is part of their scores, as of any candidate's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twhin_core.data.negative_lists import NegativeLists, numbers_of_negatives
from twhin_core.schema import Schema


@dataclass(frozen=True)
class Chosen:
    """At most n explicit negatives of each slot of a batch."""

    node: Tensor
    """int64 [C, L, n]: rows of the rhs's table; where there is none, the answer's, which is looked up anyway."""
    is_there: Tensor
    """bool [C, L, n]."""
    share: Tensor
    """float32 [C, L]: what they weigh together, as a share of the weight of all negatives."""


class ExplicitSampler:
    """Chooses explicit negatives on the device that makes batches, without waiting for it."""

    def __init__(self, schema: Schema, lists: NegativeLists, device: torch.device | None = None) -> None:
        settings = [of.negatives for of in schema.relations]
        self._of = torch.from_numpy(numbers_of_negatives(schema)).to(device)
        most = [0 if of is None else of.per_positive for of in settings]
        self._most, self._columns = torch.tensor(most, device=device), torch.arange(max(most), device=device)
        self._share = torch.tensor([0.0 if of is None else of.share for of in settings], device=device)
        self._key, self._start = (torch.from_numpy(of).to(device) for of in (lists.key, lists.start))
        self._node = torch.from_numpy(lists.node).to(device)
        self._rows = lists.rows

    def choose(self, rel: Tensor, lhs: Tensor, answer: Tensor, generator: torch.Generator) -> Chosen:
        """Those of slots with these edges, int64 [C, L] each.

        All that a query has if they are at most `per_positive`; otherwise so many neighbors in its list, from a place
        drawn uniformly, so that each is as likely as any other.
        """
        wanted = self._of[rel] * self._rows + lhs  # below all keys for a relation without
        first = torch.searchsorted(self._key, wanted)
        start = self._start[first]
        count = self._start[torch.searchsorted(self._key, wanted, right=True)] - start
        drawn = torch.rand(wanted.shape, dtype=torch.float64, generator=generator, device=wanted.device)
        place = ((drawn * count).long()[..., None] + self._columns) % count.clamp(min=1)[..., None]
        is_there = self._columns < torch.minimum(count, self._most[rel])[..., None]
        found = self._node[torch.where(is_there, start[..., None] + place, 0)] if len(self._node) else answer[..., None]
        is_there = is_there & (found != answer[..., None])
        return Chosen(torch.where(is_there, found, answer[..., None]), is_there, self._share[rel])
