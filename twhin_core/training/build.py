"""From a config to a model that trains: tables on meta → optimizers in backward → plan → shard → initial weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingType
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.manifest import Schema
from twhin_core.model.batch import Batch
from twhin_core.model.twhin import Twhin
from twhin_core.training.initialise import initialise_table
from twhin_core.training.optimizers import optimizer_class
from twhin_core.training.ranks import Ranks

# The kinds under which a step is the same as on one rank. Data-parallel tables have no optimizer in the backward pass
# and would not learn; column-wise shards would each take a mean of their own in row-wise Adagrad.
SHARDING_TYPES = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]


@dataclass(frozen=True)
class TrainableModel:
    """The sharded model, and the optimizer of the relations; those of the tables run inside the backward pass."""

    model: DistributedModelParallel
    relation_optimizer: torch.optim.Optimizer

    def step(self, batch: Batch) -> Tensor:
        """Learns from one batch. Gives this rank's part of the loss before the update, a scalar on the device."""
        self.relation_optimizer.zero_grad()
        loss: Tensor = self.model(batch)
        # Gradients are averaged over the ranks, and each rank's loss is a part of the step's mean: so their sum counts.
        (loss * torch.distributed.get_world_size()).backward()
        self.relation_optimizer.step()
        return loss.detach()

    def state(self) -> dict[str, Tensor | ShardedTensor]:
        """Every tensor that training goes on from, by name; changing them in place changes the model."""
        state = dict(self.model.state_dict())
        for weight, entries in self.model.fused_optimizer.state_dict()["state"].items():
            state.update({f"optimizer.{weight}.{name}": value for name, value in entries.items()})
        for name, parameter in self.model.module.scorer.named_parameters():
            entries = self.relation_optimizer.state[parameter]
            state.update({f"optimizer.scorer.{name}.{key}": value for key, value in entries.items()})
        return state


def build(config: Config, schema: Schema, ranks: Ranks) -> TrainableModel:
    """The model of `config` with its initial weights, sharded over `ranks`.

    Raises:
        UserError: a table's optimizer has no kernel for this device.
    """
    if ranks.device.type == "cuda" and config.runtime.enable_tensorfloat32:
        torch.set_float32_matmul_precision("high")
    twhin = Twhin(config.model, schema, table_device=torch.device("meta"), device=ranks.device)
    for table in config.model.embeddings.tables:
        if table.optimizer.name == "adam" and ranks.device.type == "cpu":
            raise UserError(
                f"model.embeddings.tables: {table.name} has adam, which has no fused kernel for a CPU; use sgd, "
                "adagrad or rowwise_adagrad, or a GPU"
            )
        kind, arguments = optimizer_class(table.optimizer)
        apply_optimizer_in_backward(kind, [twhin.tables.embeddings[table.name].weight], arguments)
    model = _shard(twhin, ranks)
    state = model.state_dict()
    for table in config.model.embeddings.tables:
        weight = state[f"tables.embeddings.{table.name}.weight"]
        initialise_table(table.name, weight, config.model.init_std, config.training.seed)
    return TrainableModel(model, _relation_optimizer(config, model.module.scorer))


def _shard(twhin: Twhin, ranks: Ranks) -> DistributedModelParallel:
    sharder = EmbeddingCollectionSharder()
    topology = Topology(world_size=ranks.world_size, compute_device=ranks.device.type)
    constraints = {table: ParameterConstraints(sharding_types=SHARDING_TYPES) for table in twhin.tables.embeddings}
    planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
    plan = planner.collective_plan(twhin, [sharder], torch.distributed.group.WORLD)
    return DistributedModelParallel(twhin, device=ranks.device, plan=plan, sharders=[sharder])


def _relation_optimizer(config: Config, scorer: torch.nn.Module) -> torch.optim.Optimizer:
    kind, arguments = optimizer_class(config.model.translation_optimizer)
    optimizer = kind(scorer.parameters(), **arguments)
    # Adam makes its state at its first step; checkpoints need it from the start. These are its own first values.
    if isinstance(optimizer, torch.optim.Adam):
        for parameter in scorer.parameters():
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer
