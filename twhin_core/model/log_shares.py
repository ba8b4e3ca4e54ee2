"""log p of the candidates in a batch, which `model.prior` adds to their logits."""

from __future__ import annotations

import torch
from torch import Tensor

from twhin_core.data.frequencies import PSEUDO_COUNT, Frequencies
from twhin_core.model.negative_sampler import CountLookup
from twhin_core.schema import Schema, Side


class LogShares:
    """`Frequencies.log_shares` on a device."""

    def __init__(
        self, schema: Schema, frequencies: Frequencies, counts: CountLookup, device: torch.device | None = None
    ) -> None:
        """`counts`: of the `frequencies`."""
        self._counts = counts
        self._offset = torch.from_numpy(frequencies.share_offsets(schema.rows_of_ends)).to(device)

    def of(self, side: Side, rel: Tensor, node: Tensor) -> Tensor:
        """log(p · rows) of nodes on that side of relations: int64 [C] and [C, X] → float32 [C, X]."""
        group = (2 * rel + (side == "rhs"))[:, None]
        found: Tensor = (self._counts.of(group, node) + PSEUDO_COUNT).double().log() + self._offset[group]
        return found.float()
