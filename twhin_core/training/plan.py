"""Which rank holds which part of which table, planned by torchrec within the ranks' memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    HardwareConfig,
    KernelConfig,
    PlannerError,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ShardingPlan

from twhin_core import limits, storage
from twhin_core.config import Config, Table
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError
from twhin_core.model.anchor import COLUMNS, SUFFIX
from twhin_core.model.content import SUFFIX as CONTENT
from twhin_core.model.twhin import Twhin
from twhin_core.progress import log
from twhin_core.schema import Schema
from twhin_core.sizes import readable
from twhin_core.training.row_optimizer import state_shapes

# What `auto` chooses from. data_parallel is exact too, but its gradients are as large as the table.
AUTO = ("table_wise", "row_wise")

# The fraction of each rank's memory kept for activations, buffers and the rest of the process.
RESERVED = 0.15


@dataclass(frozen=True)
class TableShard:
    """A rank's part of a table; `bytes` counts weights and optimizer state."""

    rank: int
    rows: int
    columns: int
    bytes: int


@dataclass(frozen=True)
class TablePlan:
    """How a table is sharded."""

    table: str
    sharding: str
    parts: list[TableShard]


def make_plan(config: Config, schema: Schema, twhin: Twhin, ranks: Ranks) -> ShardingPlan:
    """The plan, the same on every rank. A collective.

    Raises:
        UserError: the ranks cannot hold the tables.
    """
    memory = torch.tensor(_memory_of(ranks), device=ranks.device)
    dist.all_reduce(memory, dist.ReduceOp.MIN)  # machines may differ
    outcome: list[ShardingPlan | str | None] = [None]
    if ranks.is_first:
        outcome = [_plan(config, schema, twhin, ranks, int(memory))]
    # An error is broadcast like a plan, so that all ranks raise it.
    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    if isinstance(outcome[0], str):
        raise UserError(outcome[0])
    assert outcome[0] is not None
    return outcome[0]


def _plan(config: Config, schema: Schema, twhin: Twhin, ranks: Ranks, memory: int) -> ShardingPlan | str:
    """A plan within `memory` bytes per rank, or the reason why there is none."""
    limit, world_size = int(memory * (1 - RESERVED)), ranks.world_size
    tables = config.model.embeddings.tables
    needs = {table.name: _least_bytes(table, schema.tables[table.name], world_size) for table in tables}
    if (table := next((table for table in tables if needs[table.name] > limit), None)) is not None:
        return (
            f"model.embeddings.tables: {table.name}, {schema.tables[table.name]:,} rows with sharding "
            f"{table.sharding}, needs {readable(needs[table.name])} on one rank, which has only {readable(limit)} "
            "available"
        )
    cuda = ranks.device.type == "cuda"
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=world_size, local_world_size=ranks.local_world_size),
        HardwareConfig(hbm_cap_bytes=memory if cuda else 0, ddr_cap_bytes=memory),
        KernelConfig(compute_device=ranks.device.type),
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=config.train_data.per_replica_batch_size,
        constraints={
            **{table.name: _constraint(table, world_size) for table in tables},
            **{
                table.name + SUFFIX: ParameterConstraints(sharding_types=list(AUTO), compute_kernels=["fused"])
                for table in tables
            },
            **{
                table + CONTENT: ParameterConstraints(sharding_types=list(AUTO), compute_kernels=["fused"])
                for table in schema.content
            },
        },
        storage_reservation=FixedPercentageStorageReservation(RESERVED),
        stats=[],
        debug=False,
    )
    try:
        return planner.plan(twhin, [EmbeddingCollectionSharder()])
    except PlannerError as error:
        log.debug("the planner says: %s", error)
        return (
            f"model.embeddings.tables: no plan fits all tables into {readable(limit)} per rank; they need at least "
            f"{readable(sum(needs.values()))}; use more ranks, row_wise, or an optimizer with less state"
        )


def _constraint(table: Table, world_size: int) -> ParameterConstraints:
    kinds = list(AUTO) if table.sharding == "auto" else [table.sharding]
    if table.sharding == "column_wise":
        # min_partition is the width of a shard; the kernels need multiples of 4.
        shards = max(n for n in range(1, world_size + 1) if table.embedding_dim % (4 * n) == 0)
        if shards == 1:
            return ParameterConstraints(sharding_types=["table_wise"])
        return ParameterConstraints(sharding_types=kinds, min_partition=table.embedding_dim // shards)
    kernels = None if table.sharding == "data_parallel" else ["fused"]  # on GPUs, others would use host memory
    return ParameterConstraints(sharding_types=kinds, compute_kernels=kernels)


def summarize(config: Config, schema: Schema, plan: ShardingPlan | None, world_size: int) -> list[TablePlan]:
    """`plan` in the order of the config's tables; None means that a single process holds all of them."""
    summary = []
    for table in config.model.embeddings.tables:
        rows = schema.tables[table.name]
        if plan is None:
            whole = TableShard(0, rows, table.embedding_dim, _bytes(table, rows, table.embedding_dim))
            summary.append(TablePlan(table.name, "local", [whole]))
            continue
        entry = plan.plan["tables"][table.name]
        if entry.sharding_spec is None:
            shards = [(rank, rows, table.embedding_dim) for rank in range(world_size)]
        else:
            shards = [(shard.placement.rank(), *shard.shard_sizes) for shard in entry.sharding_spec.shards]
        parts = [TableShard(rank, height, width, _bytes(table, height, width)) for rank, height, width in shards]
        summary.append(TablePlan(table.name, entry.sharding_type, parts))
    return summary


def show(plan: list[TablePlan]) -> None:
    """Logs `plan` as a table, with the largest part of each table."""
    rows = [("table", "sharding", "ranks", "rows per rank", "columns", "memory per rank")]
    for table in plan:
        largest = max(table.parts, key=lambda part: part.bytes)
        ranks = len({part.rank for part in table.parts if part.rows})
        figures = f"{largest.rows:,}", str(largest.columns), readable(largest.bytes)
        rows.append((table.table, table.sharding, str(ranks), *figures))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        log.info("plan: %s", "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write(plan: list[TablePlan], root: str) -> None:
    """Writes `plan` to `<root>/training/plan.json`."""
    storage.write_json(storage.join(root, "training/plan.json"), [asdict(table) for table in plan])


def _bytes(table: Table, rows: int, columns: int) -> int:
    """Bytes of weights and optimizer state and, for a replicated table, of its dense gradients."""
    weights = (2 if table.data_type == "fp16" else 4) * columns
    state = 4 * sum(map(math.prod, state_shapes(table.optimizer, 1, columns)))
    gradients = weights if table.sharding == "data_parallel" else 0
    return rows * (weights + state + gradients)


def _least_bytes(table: Table, rows: int, world_size: int) -> int:
    """The least that a table needs on the rank that holds most of it."""
    whole = _bytes(table, rows, table.embedding_dim)
    return whole if table.sharding in ("data_parallel", "table_wise") else -(-whole // world_size)


def check_single_rank(config: Config, schema: Schema, ranks: Ranks) -> None:
    """Raises UserError if this process cannot hold all tables."""
    tables = config.model.embeddings.tables
    needed = sum(_bytes(table, schema.tables[table.name], table.embedding_dim) for table in tables)
    if config.training.anchor is not None:
        needed += sum(4 * schema.tables[table.name] * (table.embedding_dim + COLUMNS) for table in tables)
    needed += sum(4 * schema.tables[table] * shape.stored_width for table, shape in schema.content.items())
    limit = int(_memory_of(ranks) * (1 - RESERVED))
    if needed > limit:
        raise UserError(
            f"model.embeddings.tables: the tables need {readable(needed)}, but this process has only {readable(limit)} "
            "available; train on more machines"
        )


def _memory_of(ranks: Ranks) -> int:
    """Bytes of this rank's GPU memory, or of its share of the memory of the machine or container."""
    if ranks.device.type == "cuda":
        return int(torch.cuda.get_device_properties(ranks.device).total_memory)
    return limits.memory() // ranks.local_world_size
