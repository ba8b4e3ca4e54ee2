"""From a config to a trainable model: tables on meta → optimizers in backward → plan → shard → initial weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from fbgemm_gpu.split_table_batched_embeddings_ops_training import DenseTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.types import ShardingPlan

from twhin_core.checkpoints.checkpoint import COUNTS, KEYS
from twhin_core.config import Config
from twhin_core.data.frequencies import Frequencies
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError
from twhin_core.model import fused_softmax
from twhin_core.model.anchor import SUFFIX, Anchors
from twhin_core.model.batch import Batch
from twhin_core.model.device_batch import LaidOutEdges
from twhin_core.model.twhin import Twhin
from twhin_core.progress import log
from twhin_core.schema import Schema
from twhin_core.training.batches import PreparedBatch
from twhin_core.training.captured_step import CapturedStep
from twhin_core.training.initialise import initialise_table
from twhin_core.training.joined_tables import JoinedTables
from twhin_core.training.local_model import LocalModel
from twhin_core.training.memory import Footprint, footprint
from twhin_core.training.optimizers import Optimizers, fuse
from twhin_core.training.pipeline import Pipeline
from twhin_core.training.placement import stored_tables
from twhin_core.training.plan import TablePlan, is_local, make_plan, memory_of, place_alone, summarize
from twhin_core.training.shard_rows import ShardRows, use_row_optimizers

Tag = TypeVar("Tag")

ANCHORS = "anchors.tables.embeddings."
CONTENT = "content.of."


@dataclass(frozen=True)
class TrainableModel:
    """The sharded model, its optimizers, and how its tables are sharded."""

    model: DistributedModelParallel | LocalModel
    optimizers: Optimizers
    plan: list[TablePlan]
    memory: Footprint
    amp: bool
    degrees: dict[str, Tensor] = field(default_factory=dict)
    """What `model.prior` is computed from, for the checkpoint."""

    def step(self, batch: PreparedBatch) -> Tensor:
        """Trains on one batch. Returns this rank's part of the loss before the update, a scalar on the device."""
        self.optimizers.start()
        loss = self._captured(batch) if isinstance(batch, LaidOutEdges) and self._can_capture(batch) else None
        if loss is None:
            loss = self._train(batch.to(self.model.device))
        self.optimizers.finish()
        return loss

    def steps(self, batches: Iterator[tuple[PreparedBatch, Tag]]) -> Iterator[tuple[Tensor, Tag]]:
        """Trains on each batch in turn. Yields the result of `step` and the batch's tag.

        If the tables are sharded, it takes batches ahead and sends their ids while the previous step computes.
        """
        if self.pipeline is not None:
            yield from self.pipeline.steps(batches)
        else:
            yield from ((self.step(batch), tag) for batch, tag in batches)

    def without_pipeline(self) -> AbstractContextManager[None]:
        """A context between two `steps` in which the model may take other batches."""
        return self.pipeline.paused() if self.pipeline is not None else nullcontext()

    @cached_property
    def pipeline(self) -> Pipeline | None:
        if isinstance(self.model, LocalModel):
            return None
        return Pipeline(self.model, self.optimizers, self._loss)

    def _can_capture(self, batch: LaidOutEdges) -> bool:
        """Whether nothing in a step waits for the device or has shapes that depend on the edges."""
        model, device = self.model, self.model.device
        with self._precision():
            is_fused = fused_softmax.is_available(device, model.module.dim)
        return (
            isinstance(model, LocalModel) and device.type == "cuda" and batch.is_uniform and is_fused
            and model.module.has_fixed_shapes
        )  # fmt: skip

    @cached_property
    def _captured(self) -> CapturedStep:
        return CapturedStep(self._train, list(self.model.module.parameters()))

    def _train(self, batch: Batch) -> Tensor:
        """The forward and the backward pass, and the update of joined tables. Returns the loss."""
        differentiated, loss = self._loss(batch)
        differentiated.backward()
        if isinstance(self.model, LocalModel) and isinstance(self.model.tables, JoinedTables):
            self.model.tables.update()
        return loss

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The value to differentiate, and this rank's part of the loss."""
        with self._precision():
            loss: Tensor = self.model(batch)
        # Gradients are averaged over the ranks, but the step's loss is the sum of the ranks' parts.
        return loss * torch.distributed.get_world_size(), loss.detach()

    def state(self) -> dict[str, Tensor | ShardedTensor]:
        """Every tensor that training resumes from, by name; changing them in place changes the model."""
        left_out = (ANCHORS, CONTENT)
        model = {name: value for name, value in self.model.state_dict().items() if not name.startswith(left_out)}
        return {**model, **self.optimizers.state(), **self.degrees}

    def anchors(self) -> dict[str, Tensor | ShardedTensor]:
        """The anchors by table, [rows, dim + 4]; empty without any. They are no part of the state."""
        found = {name: value for name, value in self.model.state_dict().items() if name.startswith(ANCHORS)}
        return {name.removeprefix(ANCHORS).partition(SUFFIX)[0]: value for name, value in found.items()}

    def content(self) -> dict[str, Tensor | ShardedTensor]:
        """The content by table, [rows, width]; empty without any. It is no part of the state."""
        found = {name: value for name, value in self.model.state_dict().items() if name.startswith(CONTENT)}
        return {name.removeprefix(CONTENT).partition(".")[0]: value for name, value in found.items()}

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.amp)


def build(
    config: Config, schema: Schema, ranks: Ranks, frequencies: Frequencies | None = None, edges: int | None = None
) -> TrainableModel:
    """The model of `config` with its initial weights, sharded over `ranks`. Logs the memory that it will need first.

    Args:
        frequencies: of the training edges; needed with `model.prior`.
        edges: the number of training edges, if known.

    Raises:
        UserError: a table's optimizer has no kernel for this device, or the ranks cannot hold the tables.
        StorageRefused: the disk cannot hold a table that memory is too small for.
    """
    torch.set_float32_matmul_precision("high" if config.runtime.enable_tensorfloat32 else "highest")
    in_batch = config.train_data.in_batch_negatives
    anchors = None if config.training.anchor is None else Anchors(config.model, schema, in_batch, ranks.device)
    twhin = Twhin(config.model, schema, table_device=torch.device("meta"), device=ranks.device, anchors=anchors)
    sharding, mapped = None, frozenset[str]()
    if is_local(config, schema, ranks):
        mapped = place_alone(config, schema, ranks)
    else:
        _check_kernels(config, ranks)
        fuse(config, twhin)
        sharding = make_plan(config, schema, twhin, ranks)
    plan = summarize(config, schema, sharding, ranks.world_size, mapped)
    memory = footprint(config, stored_tables(config, schema), plan, ranks, memory_of(ranks), edges, frequencies)
    if ranks.is_first:
        memory.show()
    model: DistributedModelParallel | LocalModel
    shards = list[ShardRows]()
    if sharding is None:
        model = LocalModel(config.model, schema, twhin, ranks.device, mapped)
    else:
        model = _shard(config, twhin, sharding, ranks)
        shards = use_row_optimizers(config, model) if ranks.device.type == "cpu" else []
    state = model.state_dict()
    for table in config.model.embeddings.tables:
        weight = state[f"tables.embeddings.{table.name}.weight"]
        std = None if table.is_spherical else config.model.init_std
        initialise_table(table.name, weight, std, config.training.seed)
    return TrainableModel(
        model=model,
        optimizers=Optimizers(config, model, shards),
        plan=plan,
        memory=memory,
        amp=config.runtime.enable_amp,
        degrees=_degrees(config, frequencies),
    )


def _degrees(config: Config, frequencies: Frequencies | None) -> dict[str, Tensor]:
    if config.model.prior is None or frequencies is None:
        return {}
    of_sides = frequencies.of_sides(config.model.prior.sides)
    return {KEYS: torch.from_numpy(of_sides.key), COUNTS: torch.from_numpy(of_sides.count)}


def warn_of_slow_products(config: Config, ranks: Ranks) -> None:
    """Logs that bf16 products would be faster in fp32, on the x86 CPUs that multiply bf16 by vector instructions."""
    if ranks.device.type != "cpu" or not config.runtime.enable_amp:
        return
    cpu = torch.cpu.get_capabilities()
    if cpu.get("architecture") == "x86_64" and not cpu.get("amx_bf16"):
        log.warning("runtime.enable_amp: this CPU has no AMX, so bf16 products are slower than fp32; set it to false")


def _shard(config: Config, twhin: Twhin, plan: ShardingPlan, ranks: Ranks) -> DistributedModelParallel:
    model = DistributedModelParallel(twhin, device=ranks.device, plan=plan, sharders=[EmbeddingCollectionSharder()])
    if ranks.device.type == "cpu":
        _unpool_replicated(model)
    else:
        fused = (table for table in config.model.embeddings.tables if table.sharding != "data_parallel")
        twhin.project_gradients_of = {table.name for table in fused if table.is_spherical}
    return model


def _check_kernels(config: Config, ranks: Ranks) -> None:
    for table in config.model.embeddings.tables:
        if table.optimizer.name == "adam" and ranks.device.type == "cpu":
            raise UserError(
                f"model.embeddings.tables: {table.name} has adam, which on CPUs needs fp32 tables and a single "
                "process; use sgd, adagrad or rowwise_adagrad, or GPUs"
            )
        if table.optimizer.name == "adam" and table.data_type == "fp16":
            raise UserError(
                f"model.embeddings.tables: {table.name} has adam with data_type fp16, for which there is no kernel; "
                "use fp32, or sgd, adagrad or rowwise_adagrad"
            )


def _unpool_replicated(model: DistributedModelParallel) -> None:
    """Gives replicated tables an unpooled lookup on CPUs, where fbgemm's dense kernel always pools."""
    for lookup in model.module.tables._lookups:  # modules() does not list them
        for module in lookup.modules():
            if isinstance(module, DenseTableBatchedEmbeddingBagsCodegen):
                module.forward = partial(_look_up_replicated, module)


def _look_up_replicated(
    kernel: DenseTableBatchedEmbeddingBagsCodegen, indices: Tensor, offsets: Tensor, **_: None
) -> Tensor:
    """Rows [len(indices), dim]; the kernel's weights hold the tables one after another, all of the same dim."""
    dim, entries = kernel.max_D, (len(offsets) - 1) // len(kernel.weights_offsets)
    first_row = (kernel.weights_offsets // dim).repeat_interleave(offsets[::entries].diff())
    return F.embedding(indices + first_row, kernel.weights.view(-1, dim))
