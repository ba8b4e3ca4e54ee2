"""The tables of a single rank on a GPU: parts of one large table, whose rows a step reads and updates in place.

    rows   0 … users - 1 │ users … users + posts - 1 │ …

A batch numbers the rows of all tables through, so that a step takes the same few kernels however many tables there are,
and nothing in it depends on how many distinct rows it has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor

from twhin_core.config import Model
from twhin_core.config.optimizer import Adam
from twhin_core.schema import Schema
from twhin_core.training.frozen_rows import FrozenRows
from twhin_core.training.row_optimizer import STATE_NAMES, state_shapes
from twhin_core.training.schedules import rate


class JoinedTables(nn.Module):
    """Replaces a sharded EmbeddingCollection, with the same names of weights and optimizer state."""

    def __init__(self, model: Model, schema: Schema, device: torch.device) -> None:
        """All tables must be float32 and have the same optimizer."""
        super().__init__()
        self._optimizer = model.embeddings.tables[0].optimizer
        rows = sum(schema.tables.values())
        self._weight = torch.empty(rows, model.dim, device=device)
        shapes = state_shapes(self._optimizer, rows, model.dim)
        self._state = [torch.zeros(shape, device=device) for shape in shapes]
        self._rates, self._rates_on_host = torch.ones(3, device=device), [1.0] * 3
        self._read: list[tuple[Tensor, Tensor]] = []
        self.steps_before = 0
        self._parts: dict[str, slice] = {}
        self.embeddings = nn.ModuleDict()
        first = 0
        for name, size in schema.tables.items():
            self._parts[name] = slice(first, first + size)
            self.embeddings[name] = nn.Module()
            self.embeddings[name].register_buffer("weight", self._weight[self._parts[name]])
            first += size

    def gather(self, rows: list[Tensor]) -> list[Tensor]:
        """The vectors of rows of the joined tables, float32 [n, dim] for each int64 [n].

        A tensor that occurs several times in `rows` is read once. The results collect gradients for `update`.
        """
        read: dict[int, Tensor] = {}
        for index in rows:
            if id(index) not in read:
                read[id(index)] = self._weight.index_select(0, index)
        found = [read[id(index)].detach().requires_grad_(torch.is_grad_enabled()) for index in rows]
        self._read = list(zip(rows, found, strict=True))
        return found

    def forward(self, lookups: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """The rows of each table, float32 [n, dim], which collect no gradients."""
        return {
            table: JaggedTensor(self._weight[self._parts[table]][ids.values()], lengths=ids.lengths())
            for table, ids in lookups.to_dict().items()
        }

    def update(self) -> None:
        """Updates the rows last gathered with their gradients, without waiting for the device."""
        from twhin_core.training.row_kernels import update_rows  # needs Triton

        gradients: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for rows, vectors in self._read:
            if vectors.grad is not None:
                gradients.setdefault(id(rows), (rows, []))[1].append(vectors.grad)
        settings = self._optimizer.choice
        update_rows(
            self._optimizer.name,
            list(gradients.values()),
            self._weight,
            self._state,
            self._rates,
            settings.model_dump().get("eps", 0.0),
            settings.betas if isinstance(settings, Adam) else (0.0, 0.0),
        )
        self._read = []

    def freeze(self, frozen: FrozenRows) -> None:
        """Nothing to do: `LocalModel.can_hold` has no frozen rows here."""

    def start(self, step: int) -> None:
        """Sets the rates of `step`, counted from 1."""
        settings = self._optimizer.choice
        betas = settings.betas if isinstance(settings, Adam) else (0.0, 0.0)
        rates = [rate(self._optimizer, step), *(1 - beta ** (self.steps_before + step) for beta in betas)]
        if rates != self._rates_on_host:
            self._rates.copy_(torch.tensor(rates))
            self._rates_on_host = rates

    def finish(self, step: int) -> None:
        """Nothing to do: `update` follows the backward pass."""

    def optimizer_state(self) -> dict[str, Tensor]:
        """As `RowOptimizer.state`, for each table its part."""
        names = STATE_NAMES[self._optimizer.name]
        return {
            f"optimizer.tables.embeddings.{table}.weight.{table}.{name}": value[part]
            for table, part in self._parts.items()
            for name, value in zip(names, self._state, strict=True)
        }
