"""Which memory the rows of each table are in, chosen by what a rank's device and its machine have.

`device`   all in the device's memory
`cached`   rows in main memory, some of them on the GPU too: fbgemm's managed caching
`host`     rows in main memory, which the GPU reads and writes over the bus: CUDA's managed memory
`mapped`   all in a temporary file

With `cached` and `host`, fbgemm keeps optimizer state of one value per row on the GPU, and other state with the rows.
`cached` also takes `SLOT_BYTES` of the GPU for each row in the cache, and `MAP_BYTES` for each row of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twhin_core.config import Config, Table
from twhin_core.config.tables import Kernel
from twhin_core.errors import UserError
from twhin_core.model.anchor import COLUMNS
from twhin_core.model.anchor import SUFFIX as ANCHOR
from twhin_core.model.content import SUFFIX as CONTENT
from twhin_core.schema import Schema
from twhin_core.sizes import readable
from twhin_core.training.row_optimizer import state_shapes

SLOT_BYTES, MAP_BYTES = 16, 4
BUILD_BYTES = 16
"""Main memory for each row of a cached table while fbgemm builds the map: two Python lists."""

LEAST_CACHED, MOST_CACHED = 0.001, 0.99
"""Bounds of the share of rows that a cache holds by default."""


@dataclass(frozen=True)
class Room:
    """The bytes that the tables of one rank may take."""

    device: int
    """Of the GPU's memory or, without one, of main memory."""
    host: int = 0
    """Of main memory, beside a GPU."""


@dataclass(frozen=True)
class StoredTable:
    """A table as training stores it, or the anchors or the content of one. Sizes are bytes per row."""

    name: str
    rows: int
    weights: int
    row_state: int = 0
    """Optimizer state of one value per row."""
    wide_state: int = 0
    """Optimizer state as wide as the row."""
    sharding: str = "auto"
    kernel: Kernel = "auto"
    cache: float | None = None
    is_frozen: bool = False
    """Whether some rows are kept as they are, which a cache, whose rows are written back late, cannot do."""

    @property
    def row_bytes(self) -> int:
        """On a device that holds all of a row; replicated rows also have dense gradients."""
        gradients = self.weights if self.sharding == "data_parallel" else 0
        return self.weights + self.row_state + self.wide_state + gradients

    @property
    def total(self) -> int:
        return self.rows * self.row_bytes

    @property
    def slot_bytes(self) -> int:
        """Of a row in the cache. torchrec's planner counts its state too, which fbgemm keeps in main memory."""
        return self.weights + self.wide_state + SLOT_BYTES

    def least(self, world_size: int) -> int:
        """The least that it needs on the rank that holds most of it, on the device alone."""
        is_whole = self.sharding in ("data_parallel", "table_wise")
        return self.total if is_whole else -(-self.total // world_size)

    def on_device(self, placement: Placement) -> int:
        """Bytes of device memory."""
        if placement.kernel == "device":
            return self.total
        if placement.kernel == "mapped":
            return 0
        of_cache = MAP_BYTES + (placement.cache or 0) * self.slot_bytes if placement.kernel == "cached" else 0
        return math.ceil(self.rows * (self.row_state + of_cache))

    def on_host(self, placement: Placement) -> int:
        """Bytes of main memory beside a GPU, less what building takes."""
        return self.rows * (self.weights + self.wide_state) if placement.kernel in ("cached", "host") else 0

    def sizes(self) -> str:
        state = self.rows * (self.row_state + self.wide_state)
        return f"{readable(self.rows * self.weights)} of rows, {readable(state)} of optimizer state"


@dataclass(frozen=True)
class Placement:
    """Where a table's rows are; `cache` is the share of them that a cache holds."""

    kernel: Kernel
    cache: float | None = None


def stored_tables(config: Config, schema: Schema) -> list[StoredTable]:
    """All tables that training stores: those of the config, then their anchors and contents."""
    tables = config.model.embeddings.tables
    stored = [
        StoredTable(
            table.name,
            schema.tables[table.name],
            table.embedding_dim * (2 if table.data_type == "fp16" else 4),
            *_state_bytes(table),
            sharding=table.sharding,
            kernel=table.kernel,
            cache=table.cache_load_factor,
            is_frozen=table.is_frozen,
        )
        for table in tables
    ]
    if config.training.anchor is not None:
        stored += [
            StoredTable(table.name + ANCHOR, schema.tables[table.name], 4 * (table.embedding_dim + COLUMNS))
            for table in tables
        ]
    of_content = schema.content.items()
    return stored + [StoredTable(name + CONTENT, schema.tables[name], 4 * of.stored_width) for name, of in of_content]


def _state_bytes(table: Table) -> tuple[int, int]:
    """Bytes of optimizer state per row: of one value per row, and as wide as the row."""
    shapes = state_shapes(table.optimizer, 1, table.embedding_dim)
    one, wide = ([shape for shape in shapes if len(shape) == length] for length in (1, 2))
    return 4 * len(one), 4 * sum(map(math.prod, wide))


def check_devices(tables: Sequence[Table], is_cuda: bool, world_size: int) -> None:
    """Raises UserError if a table's kernel is not for these devices."""
    for table in tables:
        if table.kernel in ("cached", "host") and not is_cuda:
            raise UserError(
                f"model.embeddings.tables: {table.name} has kernel {table.kernel}, which keeps rows in main memory "
                "beside a GPU, but there is no GPU; remove it"
            )
        if table.kernel == "mapped" and (is_cuda or world_size > 1):
            raise UserError(
                f"model.embeddings.tables: {table.name} has kernel mapped, which is for a process that trains alone "
                f"on a CPU, not for {'GPUs; use cached' if is_cuda else 'several ranks; remove it'}"
            )


def place(tables: Sequence[StoredTable], room: Room, world_size: int, step: int) -> dict[str, Placement] | str:
    """Where each table is, among `world_size` GPUs; or why there is no place for them.

    Tables are on the GPUs if all fit. Else the largest leave them, one after another, and what room is left becomes
    caches, with the same share of rows for all.

    Args:
        step: bytes of device memory that a rank's lookups take.
    """
    placed = {
        table.name: Placement("device" if table.kernel == "auto" else table.kernel, _at_least(table))
        for table in tables
    }
    on_device = {table.name: table.on_device(placed[table.name]) * _copies(table, world_size) for table in tables}
    used, available = sum(on_device.values()), room.device * world_size
    movable = (of for of in tables if of.kernel == "auto" and of.sharding != "data_parallel" and not of.is_frozen)
    too_large_first = sorted(movable, key=lambda of: (of.least(world_size) <= room.device, -of.total))
    for table in too_large_first:
        if used <= available and table.least(world_size) <= room.device:
            break
        placed[table.name] = Placement("cached", LEAST_CACHED)
        used += table.on_device(placed[table.name]) - on_device[table.name]
    on_host = sum(table.on_host(placed[table.name]) + _to_build(table, placed) for table in tables)
    alone = next(
        (of for of in tables if placed[of.name].kernel == "device" and of.least(world_size) > room.device), None
    )
    if used > available or on_host > room.host * world_size or alone is not None:
        needed = used // world_size, on_host // world_size
        return _shortage(tables, alone, room, world_size, needed)
    open_ended = [table for table in tables if placed[table.name].kernel == "cached" and table.cache is None]
    slots = sum(table.rows * table.slot_bytes for table in open_ended)
    left = available - used - step * world_size
    share = min(MOST_CACHED, LEAST_CACHED + max(left, 0) / max(slots, 1))
    return placed | {table.name: Placement("cached", share) for table in open_ended}


def _at_least(table: StoredTable) -> float | None:
    return (table.cache or LEAST_CACHED) if table.kernel == "cached" else None


def _copies(table: StoredTable, world_size: int) -> int:
    return world_size if table.sharding == "data_parallel" else 1


def _to_build(table: StoredTable, placed: Mapping[str, Placement]) -> int:
    return BUILD_BYTES * table.rows if placed[table.name].kernel == "cached" else 0


def _shortage(
    tables: Sequence[StoredTable], alone: StoredTable | None, room: Room, world_size: int, needed: tuple[int, int]
) -> str:
    """The arithmetic, in one line. `needed`: bytes per rank with tables in main memory, on the GPU and beside it."""
    of = alone or max(tables, key=lambda table: table.total)
    if of.least(world_size) > room.device:
        what = (
            f"{of.name}, {of.rows:,} rows with sharding {of.sharding}, needs {readable(of.least(world_size))} on one "
            f"rank, which has only {readable(room.device)} available"
        )
    else:
        total = sum(table.total * _copies(table, world_size) for table in tables)
        what = (
            f"no plan fits all tables into {readable(room.device)} per rank; they need at least {readable(total)}, the "
            f"largest is {of.name}"
        )
    return (
        f"model.embeddings.tables: {what}: {of.sizes()}. With rows in main memory, a rank needs {readable(needed[0])} "
        f"of GPU memory and {readable(needed[1])} of main memory, and has {readable(room.device)} and "
        f"{readable(room.host)} available"
    )
