"""The tables of a single rank on a CPU: plain tensors, each row looked up and updated at most once per step.

Those that memory is too small for are in files; a step then reads and writes the pages of its rows alone.

torchrec's unpooled lookup spends most of a CPU step in its backward kernel. Here a batch looks up each row once, so the
gradients of repeated rows arrive already summed.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor

from twhin_core.config import Model
from twhin_core.model.threads import map_in_threads
from twhin_core.schema import Schema
from twhin_core.training.frozen_rows import FrozenRows
from twhin_core.training.mapped import mapped_zeros
from twhin_core.training.row_optimizer import RowOptimizer, state_shapes


class LocalTables(nn.Module):
    """Replaces a sharded EmbeddingCollection, with the same names of weights and optimizer state."""

    def __init__(self, model: Model, schema: Schema, mapped: Collection[str] = ()) -> None:
        """`mapped`: the tables to keep in files. Raises as `mapped_zeros`."""
        super().__init__()
        self.embeddings = nn.ModuleDict()
        self._weights, self._optimizers = {}, {}
        for table in model.embeddings.tables:
            shape, state = (schema.tables[table.name], model.dim), None
            if table.name in mapped:
                weight = mapped_zeros(*shape)
                state = [mapped_zeros(*of_state) for of_state in state_shapes(table.optimizer, *shape)]
            else:
                weight = torch.empty(shape)
            self.embeddings[table.name] = nn.Module()
            self.embeddings[table.name].register_buffer("weight", weight)
            self._weights[table.name] = weight
            self._optimizers[table.name] = RowOptimizer(table.name, table.optimizer, weight, state)
        self._looked_up: list[tuple[str, Tensor, Tensor]] = []
        self._steps_before = 0

    def forward(self, lookups: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """The rows of each table: float32 [n, dim]. `lookups` must not repeat a row."""
        found = {}
        self._looked_up = []
        for table, ids in lookups.to_dict().items():
            rows = ids.values()
            values = self._weights[table].index_select(0, rows).requires_grad_(torch.is_grad_enabled())
            self._looked_up.append((table, rows, values))
            found[table] = JaggedTensor(values, lengths=ids.lengths())
        return found

    @property
    def steps_before(self) -> int:
        """As `RowOptimizer.steps_before`."""
        return self._steps_before

    @steps_before.setter
    def steps_before(self, steps: int) -> None:
        self._steps_before = steps
        for optimizer in self._optimizers.values():
            optimizer.steps_before = steps

    def freeze(self, frozen: FrozenRows) -> None:
        """As `RowOptimizer.freeze`."""
        for optimizer in self._optimizers.values():
            optimizer.freeze(frozen)

    def start(self, step: int) -> None:
        """Nothing to clear: each step's rows have their own gradients."""

    def finish(self, step: int) -> None:
        """Updates the rows last looked up with their gradients. `step` counts from 1."""

        def update(looked_up: tuple[str, Tensor, Tensor]) -> None:
            table, rows, values = looked_up
            if values.grad is not None:
                self._optimizers[table].update(rows, values.detach(), values.grad, step)

        map_in_threads(update, self._looked_up)
        self._looked_up = []

    def optimizer_state(self) -> dict[str, Tensor]:
        return {name: value for optimizer in self._optimizers.values() for name, value in optimizer.state().items()}
