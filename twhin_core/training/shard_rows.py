"""The rows that a rank on a CPU holds, looked up and updated in the place of fbgemm's kernel.

Weights, state, their names and how ranks share them stay torchrec's. But of a step on a CPU the backward pass of that
kernel takes a quarter, several times as long as the same update a row at a time.
"""

from __future__ import annotations

from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, index_select, is_grad_enabled, zeros
from torchrec.distributed import DistributedModelParallel

from twhin_core.config import Config
from twhin_core.training.row_optimizer import RowOptimizer


class ShardRows:
    """The rows of one kernel: shards of tables whose optimizers have the same arguments."""

    def __init__(self, config: Config, kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
        self._weights = kernel.split_embedding_weights()
        self._table_of_feature = kernel.feature_table_map
        self._optimizers = []
        for number, (name, weight) in enumerate(zip(kernel.table_names, self._weights, strict=True)):
            optimizer = config.model.table(name).optimizer
            state = [] if optimizer.name == "sgd" else kernel.split_optimizer_states()[number][:1]
            self._optimizers.append(RowOptimizer(name, optimizer, weight, state))
        self._looked_up: tuple[list[Tensor], Tensor] | None = None
        kernel.forward = self.look_up

    def look_up(self, indices: Tensor, offsets: Tensor, **_: None) -> Tensor:
        """Rows [len(indices), dim], of one feature after the other; `offsets` parts each into the ranks that ask."""
        ranks = (len(offsets) - 1) // len(self._table_of_feature)
        parts = list(indices.split(offsets[::ranks].diff().tolist()))
        found: Tensor = self._weights[0].new_empty(len(indices), self._weights[0].shape[1])
        for table, part, rows in zip(self._table_of_feature, parts, found.split(list(map(len, parts))), strict=True):
            index_select(self._weights[table], 0, part, out=rows)
        found.requires_grad_(is_grad_enabled())
        self._looked_up = parts, found
        return found

    def start(self, step: int) -> None:
        """The rows of each step have gradients of their own: there is nothing to clear."""

    def finish(self, step: int) -> None:
        """Moves the rows last looked up by the sums of their gradients, as step `step`, counted from 1."""
        assert self._looked_up is not None
        parts, found = self._looked_up
        self._looked_up = None
        if found.grad is None:
            return
        gradients = found.grad.split(list(map(len, parts)))
        for table, part, gradient in zip(self._table_of_feature, parts, gradients, strict=True):
            rows, inverse = part.unique(return_inverse=True)  # several ranks may have asked for a row
            total = zeros(len(rows), gradient.shape[1]).index_add_(0, inverse, gradient)
            self._optimizers[table].update(rows, self._weights[table].index_select(0, rows), total, step)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Nothing: the state is the kernel's, which names it."""
        return {}


def use_row_optimizers(config: Config, model: DistributedModelParallel) -> list[ShardRows]:
    """Has the fp32 rows of this rank, on a CPU, looked up and updated by the project's own code."""
    return [
        ShardRows(config, module)
        for lookup in model.module.tables._lookups  # torchrec hides them from modules()
        for module in lookup.modules()
        if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen) and module.weights_precision == SparseType.FP32
    ]
