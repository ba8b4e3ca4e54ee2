"""The model of a single rank, which holds all rows itself and so needs neither torchrec's sharding nor its lookups."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from twhin_core.config import Model
from twhin_core.model import fused_softmax
from twhin_core.model.anchor import JoinedAnchors, LocalAnchors
from twhin_core.model.batch import Batch
from twhin_core.model.content import LocalContent
from twhin_core.model.twhin import Twhin
from twhin_core.schema import Schema
from twhin_core.training.joined_tables import JoinedTables
from twhin_core.training.local_tables import LocalTables


class LocalModel(nn.Module):
    """The model with local tables, in place of a DistributedModelParallel."""

    tables: LocalTables | JoinedTables

    def __init__(
        self, model: Model, schema: Schema, twhin: Twhin, device: torch.device, mapped: Collection[str] = ()
    ) -> None:
        """`mapped`: the tables to keep in files, on a CPU. Raises as `LocalTables`."""
        super().__init__()
        self.module, self.device = twhin, device
        is_cpu = device.type == "cpu"
        self.tables = LocalTables(model, schema, mapped) if is_cpu else JoinedTables(model, schema, device)
        twhin.tables = self.tables
        if twhin.anchors is not None:
            twhin.anchors.tables = LocalAnchors(model, schema) if is_cpu else JoinedAnchors(model, schema, device)

        if twhin.content is not None:
            for name, shape in schema.content.items():
                twhin.content.of[name] = LocalContent(name, schema.tables[name], shape)

    @staticmethod
    def can_hold(model: Model, device: torch.device, world_size: int, has_content: bool = False) -> bool:
        """Whether the tables can be local; on a GPU, Triton must be there and all tables have the same optimizer.

        Joined tables on a GPU have no content and no frozen rows.
        """
        tables = model.embeddings.tables
        if world_size > 1 or any(table.data_type != "fp32" for table in tables):
            return False
        same = all(table.optimizer == tables[0].optimizer for table in tables)
        plain = not has_content and not any(table.is_frozen for table in tables)
        return device.type == "cpu" or (same and plain and fused_softmax.has_triton())

    def forward(self, batch: Batch) -> Tensor:
        loss: Tensor = self.module(batch)
        return loss

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]  # as DistributedModelParallel returns it
        state: dict[str, Tensor] = self.module.state_dict()
        return state
