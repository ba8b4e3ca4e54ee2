"""Which rank holds which part of which table, planned by torchrec within the ranks' memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import cast

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
from torchrec.distributed.types import CacheParams, ParameterSharding, ShardingPlan

from twhin_core import limits, storage
from twhin_core.config import Config, Table
from twhin_core.config.tables import Kernel
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError
from twhin_core.model.twhin import Twhin
from twhin_core.progress import log
from twhin_core.schema import Schema
from twhin_core.sizes import readable
from twhin_core.training.local_model import LocalModel
from twhin_core.training.placement import Placement, Room, StoredTable, place, stored_tables

# What `auto` chooses from. data_parallel is exact too, but its gradients are as large as the table.
AUTO = ("table_wise", "row_wise")

# The fraction of each rank's memory kept for activations, buffers and the rest of the process.
RESERVED = 0.15

FUSED = {"device": "fused", "cached": "fused_uvm_caching", "host": "fused_uvm"}
"""torchrec's names of the kernels."""


@dataclass(frozen=True)
class TableShard:
    """A rank's part of a table; `bytes` counts weights and optimizer state, wherever they are."""

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
    kernel: Kernel = "device"
    cache: float | None = None
    """The share of the rows that a cache holds."""


def make_plan(config: Config, schema: Schema, twhin: Twhin, ranks: Ranks) -> ShardingPlan:
    """The plan, the same on every rank. A collective.

    Raises:
        UserError: the ranks cannot hold the tables.
    """
    of_rank = memory_of(ranks)
    memory = torch.tensor([of_rank.device, of_rank.host], device=ranks.device)
    dist.all_reduce(memory, dist.ReduceOp.MIN)  # machines may differ
    outcome: list[ShardingPlan | str | None] = [None]
    if ranks.is_first:
        outcome = [_plan(config, schema, twhin, ranks, Room(*memory.tolist()))]
    # An error is broadcast like a plan, so that all ranks raise it.
    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    if isinstance(outcome[0], str):
        raise UserError(outcome[0])
    assert outcome[0] is not None
    return outcome[0]


def _plan(config: Config, schema: Schema, twhin: Twhin, ranks: Ranks, memory: Room) -> ShardingPlan | str:
    """A plan within a rank's `memory`, or the reason why there is none."""
    available, world_size = _available(memory), ranks.world_size
    is_cuda = ranks.device.type == "cuda"
    stored = stored_tables(config, schema)
    own = stored[: len(config.model.embeddings.tables)]
    placed: dict[str, Placement] | str
    if is_cuda:
        placed = place(stored, available, world_size, _bytes_of_lookups(config, len(stored)))
    else:
        placed = _all_in_memory(own, available.device, world_size)
    if isinstance(placed, str):
        return placed
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=world_size, local_world_size=ranks.local_world_size),
        HardwareConfig(
            hbm_cap_bytes=memory.device if is_cuda else 0, ddr_cap_bytes=memory.host if is_cuda else memory.device
        ),
        KernelConfig(compute_device=ranks.device.type),
    )
    tables = {table.name: table for table in config.model.embeddings.tables}
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=config.train_data.per_replica_batch_size,
        constraints={
            of.name: _constraint(tables.get(of.name), placed.get(of.name, Placement("device")), world_size)
            for of in stored
        },
        storage_reservation=FixedPercentageStorageReservation(RESERVED),
        stats=[],
        debug=False,
    )
    try:
        return planner.plan(twhin, [EmbeddingCollectionSharder()])
    except PlannerError as error:
        log.debug("the planner says: %s", error)
        needed = sum(table.least(world_size) for table in own)
        return (
            f"model.embeddings.tables: no plan fits all tables into {readable(available.device)} per rank; they need "
            f"at least {readable(needed)}; use more ranks, row_wise, or an optimizer with less state"
        )


def _all_in_memory(tables: list[StoredTable], available: int, world_size: int) -> dict[str, Placement] | str:
    """All tables on the device, or why one of them is too large for it."""
    for table in tables:
        if table.least(world_size) > available:
            return (
                f"model.embeddings.tables: {table.name}, {table.rows:,} rows with sharding {table.sharding}, needs "
                f"{readable(table.least(world_size))} on one rank, which has only {readable(available)} available: "
                f"{table.sizes()}"
            )
    return {}


def _bytes_of_lookups(config: Config, tables: int) -> int:
    """Of a rank's step, as the planner counts them: an id and a vector for each table and edge.

    A few more, since the planner rounds the parts of tables up.
    """
    return tables * (config.train_data.per_replica_batch_size + 8) * (8 + 4 * config.model.dim)


def _constraint(table: Table | None, placement: Placement, world_size: int) -> ParameterConstraints:
    """`table`: None for anchors and contents."""
    kind = "auto" if table is None else table.sharding
    cache = None if placement.cache is None else CacheParams(load_factor=placement.cache)
    kernels = None if kind == "data_parallel" else [FUSED[placement.kernel]]
    kinds, partition = list(AUTO) if kind == "auto" else [kind], None
    if table is not None and kind == "column_wise":
        # min_partition is the width of a shard; the kernels need multiples of 4.
        shards = max(n for n in range(1, world_size + 1) if table.embedding_dim % (4 * n) == 0)
        kinds = ["table_wise"] if shards == 1 else kinds
        partition = None if shards == 1 else table.embedding_dim // shards
    return ParameterConstraints(
        sharding_types=kinds, compute_kernels=kernels, min_partition=partition, cache_params=cache
    )


def summarize(
    config: Config, schema: Schema, plan: ShardingPlan | None, world_size: int, mapped: Collection[str] = ()
) -> list[TablePlan]:
    """`plan` in the order of the config's tables; None means that a single process holds all of them.

    `mapped`: the tables that it holds in files.
    """
    summary, stored = [], {table.name: table for table in stored_tables(config, schema)}
    for table in config.model.embeddings.tables:
        rows = schema.tables[table.name]
        if plan is None:
            whole = TableShard(0, rows, table.embedding_dim, stored[table.name].total)
            summary.append(TablePlan(table.name, "local", [whole], "mapped" if table.name in mapped else "device"))
            continue
        entry = plan.plan["tables"][table.name]
        if entry.sharding_spec is None:
            shards = [(rank, rows, table.embedding_dim) for rank in range(world_size)]
        else:
            shards = [(shard.placement.rank(), *shard.shard_sizes) for shard in entry.sharding_spec.shards]
        whole_cells = rows * table.embedding_dim
        parts = [
            TableShard(rank, height, width, stored[table.name].total * (height * width) // whole_cells)
            for rank, height, width in shards
        ]
        summary.append(TablePlan(table.name, entry.sharding_type, parts, *_placement(entry)))
    return summary


def _placement(entry: ParameterSharding) -> tuple[Kernel, float | None]:
    """The kernel, and the share of rows that its cache holds."""
    kernel = next((ours for ours, theirs in FUSED.items() if theirs == entry.compute_kernel), "device")
    return cast(Kernel, kernel), entry.cache_params.load_factor if kernel == "cached" else None


def show(plan: list[TablePlan]) -> None:
    """Logs `plan` as a table, with the largest part of each table."""
    rows = [("table", "sharding", "ranks", "rows per rank", "columns", "memory per rank")]
    for table in plan:
        largest = max(table.parts, key=lambda part: part.bytes)
        ranks = len({part.rank for part in table.parts if part.rows})
        figures = f"{largest.rows:,}", str(largest.columns), readable(largest.bytes)
        rows.append((table.table, _how(table), str(ranks), *figures))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        log.info("plan: %s", "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _how(table: TablePlan) -> str:
    if table.kernel == "device":
        return table.sharding
    cached = "" if table.cache is None else f" {100 * table.cache:.3g} %"
    return f"{table.sharding}, {table.kernel}{cached}"


def write(plan: list[TablePlan], root: str) -> None:
    """Writes `plan` to `<root>/training/plan.json`."""
    storage.write_json(storage.join(root, "training/plan.json"), [asdict(table) for table in plan])


def is_local(config: Config, schema: Schema, ranks: Ranks) -> bool:
    """Whether this process trains without torchrec: alone, with all tables on its device or, on a CPU, in files."""
    if not LocalModel.can_hold(config.model, ranks.device, ranks.world_size, bool(schema.content)):
        return False
    if ranks.device.type == "cpu":
        return True
    stored, available = stored_tables(config, schema), _available(memory_of(ranks)).device
    are_on_device = all(table.kernel in ("auto", "device") for table in stored)
    return are_on_device and sum(table.total for table in stored) <= available


def place_alone(config: Config, schema: Schema, ranks: Ranks) -> frozenset[str]:
    """The tables that this process, which trains alone, holds in files because memory is too small for them.

    Raises:
        UserError: memory and the disk cannot hold all tables.
    """
    stored, available = stored_tables(config, schema), _available(memory_of(ranks)).device
    mapped = {table.name: table.total for table in stored if table.kernel == "mapped"}
    needed = sum(table.total for table in stored)
    is_movable = ranks.device.type == "cpu"
    movable = (table for table in stored[: len(config.model.embeddings.tables)] if table.kernel == "auto")
    for table in sorted(movable, key=lambda of: -of.total) if is_movable else ():
        if needed - sum(mapped.values()) <= available:
            break
        mapped[table.name] = table.total
    folder, in_files = tempfile.gettempdir(), sum(mapped.values())
    free = shutil.disk_usage(folder).free
    if needed - in_files > available or in_files > free:
        files = f", and {folder} {readable(free)} for files (TMPDIR names another folder)" if mapped else ""
        largest = max(stored, key=lambda table: table.total)
        raise UserError(
            f"model.embeddings.tables: the tables need {readable(needed)}, but this process has only "
            f"{readable(available)} available{files}; the largest is {largest.name}: {largest.sizes()}; train on more "
            "machines"
        )
    return frozenset(mapped)


def _available(memory: Room) -> Room:
    """What tables may take of a rank's memory."""
    return Room(int(memory.device * (1 - RESERVED)), int(memory.host * (1 - RESERVED)))


def memory_of(ranks: Ranks) -> Room:
    """The memory of this rank: of its GPU, and its share of that of the machine or container."""
    return Room(_memory_of(ranks), limits.memory() // ranks.local_world_size if ranks.device.type == "cuda" else 0)


def _memory_of(ranks: Ranks) -> int:
    """Bytes of this rank's GPU memory, or of its share of the memory of the machine or container."""
    if ranks.device.type == "cuda":
        return int(torch.cuda.get_device_properties(ranks.device).total_memory)
    return limits.memory() // ranks.local_world_size
