"""Rows that training leaves as they are, bit by bit."""

from __future__ import annotations

from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torchrec.distributed import DistributedModelParallel


def kernels_of(model: DistributedModelParallel) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    """The kernels of a model's tables, but for replicated ones."""
    modules = (module for lookup in model.module.tables._lookups for module in lookup.modules())  # modules() has none
    return [module for module in modules if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen)]


class FrozenRows:
    """Which rows of this rank's parts of tables are frozen."""

    def __init__(self) -> None:
        self._masks: dict[int, Tensor] = {}

    def add(self, values: Tensor, mask: Tensor) -> None:
        """`values`: a part, [rows, columns]; `mask`: bool [rows]."""
        if len(values):
            self._masks[values.data_ptr()] = mask.to(values.device)

    def of(self, values: Tensor) -> Tensor | None:
        """The mask of a part, bool [rows]; None if none of its rows is frozen. `values`: shares the part's memory."""
        mask = self._masks.get(values.data_ptr()) if len(values) else None
        return mask if mask is not None and bool(mask.any()) else None


class KeptRows:
    """Keeps frozen rows of a kernel whose backward pass updates all rows that were looked up.

    Some of its updates change a row without a gradient, such as one that bounds its length. So this remembers the
    frozen rows of a lookup, and puts them back after the backward pass.
    """

    def __init__(self, kernel: SplitTableBatchedEmbeddingBagsCodegen, frozen: FrozenRows) -> None:
        self._weights = kernel.split_embedding_weights()
        self._masks = [frozen.of(weight) for weight in self._weights]
        self._table_of_feature = kernel.feature_table_map
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        if any(mask is not None for mask in self._masks):
            self._look_up, kernel.forward = kernel.forward, self.look_up

    def look_up(self, indices: Tensor, offsets: Tensor, **others: object) -> Tensor:
        """As the kernel's own. `offsets` splits each feature by requesting rank."""
        ranks = (len(offsets) - 1) // len(self._table_of_feature)
        parts = indices.split(offsets[::ranks].diff().tolist())
        self._kept = []
        weights = [weight.detach() for weight in self._weights]
        for table, part in zip(self._table_of_feature, parts, strict=True):
            mask = self._masks[table]
            if mask is not None:
                rows = part[mask[part]]
                self._kept.append((weights[table], rows, weights[table][rows]))
        found: Tensor = self._look_up(indices, offsets, **others)
        return found

    def put_back(self) -> None:
        """After the backward pass of the last lookup."""
        for weight, rows, values in self._kept:
            weight[rows] = values
        self._kept = []
