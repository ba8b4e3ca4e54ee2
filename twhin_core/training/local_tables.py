"""The tables of a process that trains alone on a CPU: plain tensors, looked up and updated a row once a step.

torchrec's un-pooled lookup spends most of a step on a CPU in its backward kernel; here the gradients of repeated rows
are already summed when they arrive, because a batch asks for each row once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor

from twhin_core.config import Model
from twhin_core.model.batch import Batch
from twhin_core.model.twhin import Twhin
from twhin_core.schema import Schema
from twhin_core.training.row_optimizer import RowOptimizer


class LocalModel(nn.Module):
    """The model with local tables, in the place of a DistributedModelParallel."""

    device = torch.device("cpu")

    def __init__(self, model: Model, schema: Schema, twhin: Twhin) -> None:
        super().__init__()
        self.module = twhin
        self.tables = LocalTables(model, schema)
        twhin.tables = self.tables

    @staticmethod
    def can_hold(model: Model, device: torch.device) -> bool:
        """Whether tables of these types can be local; a GPU's kernels are faster."""
        return device.type == "cpu" and all(table.data_type == "fp32" for table in model.embeddings.tables)

    def forward(self, batch: Batch) -> Tensor:
        loss: Tensor = self.module(batch)
        return loss

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]  # the form that DistributedModelParallel has
        state: dict[str, Tensor] = self.module.state_dict()
        return state


class LocalTables(nn.Module):
    """Takes the place of a sharded EmbeddingCollection, under the same names of weights and optimizer state."""

    def __init__(self, model: Model, schema: Schema) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict()
        self._weights, self._optimizers = {}, {}
        for table in model.embeddings.tables:
            weight = torch.empty(schema.tables[table.name], model.dim)
            self.embeddings[table.name] = nn.Module()
            self.embeddings[table.name].register_buffer("weight", weight)
            self._weights[table.name] = weight
            self._optimizers[table.name] = RowOptimizer(table.name, table.optimizer, weight)
        self._looked_up: list[tuple[str, Tensor, Tensor]] = []

    def forward(self, lookups: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """The rows of each table, float32 [n, dim]; `lookups` names each row once."""
        found = {}
        self._looked_up = []
        for table, ids in lookups.to_dict().items():
            rows = ids.values()
            values = self._weights[table].index_select(0, rows).requires_grad_(torch.is_grad_enabled())
            self._looked_up.append((table, rows, values))
            found[table] = JaggedTensor(values, lengths=ids.lengths())
        return found

    def start(self, step: int) -> None:
        """The rows of each step have gradients of their own: there is nothing to clear."""

    def finish(self, step: int) -> None:
        """Moves the rows last looked up by their gradients, as step `step`, counted from 1."""
        for table, rows, values in self._looked_up:
            if values.grad is not None:
                self._optimizers[table].update(rows, values.detach(), values.grad, step)
        self._looked_up = []

    def optimizer_state(self) -> dict[str, Tensor]:
        return {name: value for optimizer in self._optimizers.values() for name, value in optimizer.state().items()}
