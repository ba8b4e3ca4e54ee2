"""Lookups and updates of a CPU rank's rows, in place of fbgemm's kernel.

Weights, state, their names and the sharding stay torchrec's. On a CPU, however, that kernel's backward pass takes a
quarter of a step, several times as long as `RowOptimizer` takes for the same update.
"""

from __future__ import annotations

from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, index_select, is_grad_enabled, zeros
from torchrec.distributed import DistributedModelParallel

from twhin_core.config import Config
from twhin_core.training.frozen_rows import FrozenRows, kernels_of
from twhin_core.training.row_optimizer import RowOptimizer


class ShardRows:
    """The rows of one kernel: shards of tables whose optimizers have the same arguments."""

    def __init__(self, config: Config, kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
        self.kernel, self._weights = kernel, kernel.split_embedding_weights()
        self._table_of_feature = kernel.feature_table_map
        self._optimizers = []
        for number, (name, weight) in enumerate(zip(kernel.table_names, self._weights, strict=True)):
            optimizer = config.model.table(name).optimizer
            state = [] if optimizer.name == "sgd" else kernel.split_optimizer_states()[number][:1]
            self._optimizers.append(RowOptimizer(name, optimizer, weight, state))
        self._looked_up: tuple[list[Tensor], Tensor] | None = None
        self.steps_before = 0
        kernel.forward = self.look_up

    def look_up(self, indices: Tensor, offsets: Tensor, **_: None) -> Tensor:
        """Rows [len(indices), dim], feature by feature; `offsets` splits each feature by requesting rank."""
        ranks = (len(offsets) - 1) // len(self._table_of_feature)
        parts = list(indices.split(offsets[::ranks].diff().tolist()))
        found: Tensor = self._weights[0].new_empty(len(indices), self._weights[0].shape[1])
        for table, part, rows in zip(self._table_of_feature, parts, found.split(list(map(len, parts))), strict=True):
            index_select(self._weights[table], 0, part, out=rows)
        found.requires_grad_(is_grad_enabled())
        self._looked_up = parts, found
        return found

    def freeze(self, frozen: FrozenRows) -> None:
        """As `RowOptimizer.freeze`."""
        for optimizer in self._optimizers:
            optimizer.freeze(frozen)

    def start(self, step: int) -> None:
        """Nothing to clear: each step's rows have their own gradients."""

    def finish(self, step: int) -> None:
        """Updates the rows last looked up with the sums of their gradients. `step` counts from 1."""
        assert self._looked_up is not None
        parts, found = self._looked_up
        self._looked_up = None
        if found.grad is None:
            return
        gradients = found.grad.split(list(map(len, parts)))
        for table, part, gradient in zip(self._table_of_feature, parts, gradients, strict=True):
            rows, inverse = part.unique(return_inverse=True)  # several ranks may request a row
            total = zeros(len(rows), gradient.shape[1]).index_add_(0, inverse, gradient)
            self._optimizers[table].update(rows, self._weights[table].index_select(0, rows), total, step)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Empty: the state belongs to the kernel and is listed with it."""
        return {}


def use_row_optimizers(config: Config, model: DistributedModelParallel) -> list[ShardRows]:
    """Replaces the kernels of this CPU rank's fp32 tables."""
    return [ShardRows(config, kernel) for kernel in kernels_of(model) if kernel.weights_precision == SparseType.FP32]
