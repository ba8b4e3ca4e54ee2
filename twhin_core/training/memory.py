"""How much memory a rank will need at its peak, by part: told before any of it is taken.

Tables are counted exactly, the rest by its largest tensors; anchors and content on the device. The interpreter and its
libraries come on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from twhin_core.config import Config
from twhin_core.config.tables import Kernel
from twhin_core.data.frequencies import Frequencies
from twhin_core.distributed.ranks import Ranks
from twhin_core.model import fused_softmax
from twhin_core.progress import log
from twhin_core.sizes import readable
from twhin_core.training.device_source import reading_threads
from twhin_core.training.placement import Placement, Room, StoredTable
from twhin_core.training.plan import RESERVED, TablePlan

EDGE_BYTES, EDGE_BYTES_ON_GPU = 28, 36
"""Of an edge in a shuffled window: in main memory, and on a GPU that gathers it."""
DEGREE_BYTES = 16
"""Of a node in the training degrees."""


@dataclass(frozen=True)
class Part:
    """What takes memory, in bytes. As in `Room`, `device` is main memory where there is no GPU."""

    name: str
    device: int = 0
    host: int = 0
    files: int = 0

    def __add__(self, other: Part) -> Part:
        return Part(self.name, self.device + other.device, self.host + other.host, self.files + other.files)


@dataclass(frozen=True)
class Footprint:
    """The peak memory of the rank that needs most."""

    parts: list[Part]
    room: Room
    """The whole memory of a rank."""
    copies: bool
    """Whether there is room for a copy of the state, from which checkpoints are written while training continues."""

    @property
    def total(self) -> Part:
        return reduce(Part.__add__, self.parts, Part("in all"))

    def show(self) -> None:
        """Logs the parts, one per line, and a warning if they exceed what there is."""
        has_gpu, total = self.room.host > 0, self.total
        for part in (*self.parts, total, Part("available", self.room.device, self.room.host)):
            columns = [("GPU" if has_gpu else "main memory", part.device)]
            columns += [("main memory", part.host)] if has_gpu else []
            columns += [("files", part.files)] if part.files else []
            log.info("memory: %-26s %s", part.name, ", ".join(f"{name} {readable(size)}" for name, size in columns))
        if not self.copies:
            log.info("memory: has no room for a copy of the state, so training waits while a checkpoint is written")
        if total.device > self.room.device or total.host > self.room.host:
            log.warning(
                "memory: a step may need more than there is; lower train_data.per_replica_batch_size, the negatives or "
                "train_data.shuffle_buffer"
            )


def footprint(
    config: Config,
    tables: Sequence[StoredTable],
    plan: Sequence[TablePlan],
    ranks: Ranks,
    room: Room,
    edges: int | None,
    frequencies: Frequencies | None,
) -> Footprint:
    """
    Args:
        tables: all, those of `plan` first.
        room: the whole memory of a rank.
        edges: to train on; None counts a full window.
    """
    parts = [Part("weights"), Part("optimizer state"), Part("gradients and caches")]
    for table, planned in zip(tables, plan, strict=False):  # anchors and content follow
        parts = [part + of for part, of in zip(parts, _of_table(table, planned), strict=True)]
    weights, state, _ = parts
    others = sum(table.total for table in tables[len(plan) :]) // ranks.world_size
    parts += [Part("anchors and content", others), Part("activations and negatives", _of_step(config, ranks))]
    parts.append(_of_graph(config, ranks, edges, frequencies))
    is_cuda = ranks.device.type == "cuda"
    in_memory = sum(part.host if is_cuda else part.device for part in parts)
    copy = sum(of.device + of.host for of in (weights, state))
    available = (1 - RESERVED) * (room.host if is_cuda else room.device)
    copies = in_memory + copy <= available and not weights.files
    if copies:
        parts.append(_in_main_memory("copy for checkpoints", copy, is_cuda))
    return Footprint([part for part in parts if part.device or part.host or part.files], room, copies)


def _of_table(table: StoredTable, plan: TablePlan) -> tuple[Part, Part, Part]:
    """The weights, the state and the rest of the rank that holds most of a table."""
    by_rank: dict[int, int] = {}
    for part in plan.parts:
        by_rank[part.rank] = by_rank.get(part.rank, 0) + part.bytes
    rows = max(by_rank.values()) / table.row_bytes
    row_kernel: Kernel = "device" if plan.kernel in ("cached", "host") else plan.kernel
    weights = _stored(plan.kernel, rows * table.weights)
    state = _stored(plan.kernel, rows * table.wide_state) + _stored(row_kernel, rows * table.row_state)
    on_device = rows / table.rows * table.on_device(Placement(plan.kernel, plan.cache))
    return weights, state, Part("", max(0, int(on_device) - weights.device - state.device))


def _stored(kernel: Kernel, size: float) -> Part:
    """`size` bytes where the kernel keeps them."""
    if kernel == "mapped":
        return Part("", files=int(size))
    return Part("", int(size)) if kernel == "device" else Part("", host=int(size))


def _in_main_memory(name: str, size: int, is_cuda: bool) -> Part:
    return Part(name, host=size) if is_cuda else Part(name, size)


def _of_step(config: Config, ranks: Ranks) -> int:
    """Rows looked up, those gathered for each side, the gradients of both, and the scores of both sides."""
    data = config.train_data
    batch, chunks = data.per_replica_batch_size, -(-data.per_replica_batch_size // data.positives_per_chunk)
    candidates = data.in_batch_negatives + data.global_negatives
    looked_up = 2 * (batch + chunks * data.global_negatives)
    gathered = 2 * (2 * batch + chunks * candidates)
    with torch.autocast(ranks.device.type, torch.bfloat16, enabled=config.runtime.enable_amp):
        is_fused = config.model.loss == "softmax" and fused_softmax.is_available(ranks.device, config.model.dim)
    scores = 0 if is_fused else 2 * batch * (1 + candidates)
    return 4 * (2 * config.model.dim * (looked_up + gathered) + scores)


def _of_graph(config: Config, ranks: Ranks, edges: int | None, frequencies: Frequencies | None) -> Part:
    """The windows of edges, and the training degrees."""
    buffer, is_cuda = config.train_data.shuffle_buffer, ranks.device.type == "cuda"
    window = buffer if edges is None else min(buffer, edges)
    gathers = is_cuda and ranks.world_size == 1
    windows = window * (reading_threads() if gathers else 1)
    degrees = 0 if frequencies is None else DEGREE_BYTES * len(frequencies.key)
    on_gpu = Part("edges and degrees", windows * EDGE_BYTES_ON_GPU if gathers else 0)
    return on_gpu + _in_main_memory("", windows * EDGE_BYTES + degrees, is_cuda)
