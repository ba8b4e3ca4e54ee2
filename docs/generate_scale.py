"""Writes docs/scale.md: what docs/measurements.json implies for a graph of 10^9 nodes and 10^11 edges.

Each entry of the JSON is the last line of a benchmark, with its command and machine, or null if it has not been
measured; figures that depend on it are then marked. The page uses `edges_per_s`, `cores` for prepare, `dim` for
train_cpu, `rows_per_s` and `dim` for export, and the MiB and milliseconds of a checkpoint.

The functions do the arithmetic: bytes, edges, rows and seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twhin_core.training.placement import Placement, Room, StoredTable, place
from twhin_core.training.plan import RESERVED

PAGE = Path(__file__).parent / "scale.md"
MEASUREMENTS = Path(__file__).parent / "measurements.json"

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Setting:
    """The graph, the model and the machines to estimate for."""

    nodes: int = 10**9
    edges: int = 10**11
    dim: int = 128
    bytes_per_value: int = 4
    gpus: int = 16
    gpus_per_machine: int = 8
    gpu_memory: float = 80e9
    batch: int = 65_536
    chunk: int = 1_000
    negatives: int = 1_000
    network: float = 50e9
    """Bytes per second and GPU between machines (400 Gbit/s)."""
    single_gpu_memory: float = 80e9
    host_memory: float = 1e12
    """Main memory of a machine with a single GPU."""
    bus: float = 64e9
    """Bytes per second between that memory and the GPU, in either direction (PCIe 5.0 x16)."""
    cores_per_executor: int = 8
    executors: tuple[int, ...] = field(default=(16, 64, 256))
    epochs: int = 1


def table_bytes(nodes: int, dim: int, bytes_per_value: int) -> int:
    """Weights and row-wise Adagrad's state, one fp32 per row."""
    return nodes * (dim * bytes_per_value + 4)


def rows_per_step(batch: int, chunk: int, negatives: int) -> int:
    """Most rows that a rank looks up: both ends of its edges, and the shared negatives of each chunk and side."""
    return 2 * batch + 2 * -(-batch // chunk) * negatives


def all_to_all_bytes(rows: int, dim: int, ranks: int) -> float:
    """What a rank sends per step with row-wise sharding: ids (int64) out; vectors (fp32) back, and their gradients.

    The hash that numbers rows spreads them evenly, so 1 of `ranks` rows is the rank's own and is not sent.
    """
    return rows * (8 + 2 * 4 * dim) * (ranks - 1) / ranks


def between_machines(rows: int, dim: int, ranks: int, ranks_per_machine: int) -> float:
    """The part of `all_to_all_bytes` that leaves the machine."""
    return rows * (8 + 2 * 4 * dim) * (ranks - ranks_per_machine) / ranks


def cached_share(at: Setting, bytes_per_value: int) -> float:
    """The share of rows that a GPU caches of a table that is in main memory, as training chooses it."""
    table = StoredTable("node", at.nodes, at.dim * bytes_per_value, row_state=4, kernel="cached")
    room = Room(int(at.single_gpu_memory * (1 - RESERVED)), int(at.host_memory * (1 - RESERVED)))
    placed = place([table], room, 1, step=(at.batch + 8) * (8 + 4 * at.dim))
    assert isinstance(placed, dict), placed
    return placed["node"].cache or 0.0


def seconds_for(amount: float, rate: float, workers: float = 1) -> float:
    """Time for `amount` at `rate` per second and worker."""
    return amount / (rate * workers)


def readers_per_gpu(consumed: float, served: float) -> float:
    """Reader processes, at `served` edges/s each, that feed a GPU which takes `consumed` edges/s."""
    return consumed / served


def page() -> str:
    return _page(Setting(), json.loads(MEASUREMENTS.read_text()))


def _page(at: Setting, measured: dict[str, Any]) -> str:
    table, rows = table_bytes(at.nodes, at.dim, at.bytes_per_value), rows_per_step(at.batch, at.chunk, at.negatives)
    sent, leaving = (
        all_to_all_bytes(rows, at.dim, at.gpus),
        between_machines(rows, at.dim, at.gpus, at.gpus_per_machine),
    )
    network_s = leaving / at.network
    lines = [
        "# Scale",
        "",
        f"What our measurements imply for {_count(at.nodes)} nodes and {_count(at.edges)} edges. `make docs` generates",
        "this page from `docs/measurements.json`, which holds the last lines of the benchmarks.",
        "Nothing of this size has been run: each figure is a measured rate or a number of bytes, multiplied by a",
        "count, under the assumptions below. Rates that were not measured are marked.",
        "",
        "## Assumptions",
        "",
        f"- There are {at.gpus} GPUs of {_size(at.gpu_memory)}, {at.gpus_per_machine} per machine. Between machines",
        f"  each GPU sends and receives {_size(at.network)}/s. Traffic within a machine is not counted.",
        "- Rows are spread evenly over the GPUs, since a hash numbers the vocabulary and spreads frequent nodes.",
        "- Every GPU has batches of the stated size, and all-to-all does not overlap with computation.",
        "- Ranks, readers and executors do not slow each other down.",
        "",
        "## Tables",
        "",
        f"d={at.dim}, fp{8 * at.bytes_per_value} weights and row-wise Adagrad (4 bytes per row), sharded row-wise over "
        f"{at.gpus} GPUs.",
        "",
        "| | |",
        "| --- | --- |",
        f"| weights and optimizer state | {_size(table)} |",
        f"| per GPU | {_size(table / at.gpus)}, {_share(table / at.gpus / at.gpu_memory)} of {_size(at.gpu_memory)} |",
        f"| the same with fp16 weights | {_size(table_bytes(at.nodes, at.dim, 2) / at.gpus)} |",
        f"| with Adam instead (8 bytes per value) | {_size(at.nodes * at.dim * (at.bytes_per_value + 8) / at.gpus)} |",
        f"| main memory per machine for the copy that a checkpoint is written from | "
        f"{_size(table / at.gpus * at.gpus_per_machine)} |",
        "",
        "## One GPU, with the table in main memory",
        "",
        *_single(at, measured, rows),
        "",
        "## A step",
        "",
        f"{at.batch:,} edges per GPU; {at.negatives:,} negatives per side, shared by chunks of {at.chunk:,}. Each row",
        "is looked up once per step. No row is assumed to be needed twice, so repeats only lower the figures.",
        "",
        "| | per GPU and step |",
        "| --- | --- |",
        f"| rows looked up | {rows:,} |",
        f"| all-to-all: ids out, vectors back, gradients out | {_size(sent)} |",
        f"| of that, between machines of {at.gpus_per_machine} GPUs | {_size(leaving)} |",
        f"| time for that at {_size(at.network)}/s per GPU | {network_s * 1000:.1f} ms |",
        f"| resulting bound, all GPUs | {_count(at.gpus * at.batch / network_s)} edges/s |",
        "",
        "## Training",
        "",
        *_training(at, measured, at.batch / network_s),
        "",
        "## Checkpoints and export",
        "",
        *_checkpoints(at, measured, table),
        "",
        "## Prepare",
        "",
        *_prepare(at, measured),
        "",
        "## Where the figures come from",
        "",
        "| | command | machine | result |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | `{entry['command']}` | {entry['machine']} | "
            f"{', '.join(f'{key} {value:,}' for key, value in entry['result'].items())} |"
            if entry is not None
            else f"| {name} | | | {NOT_MEASURED} |"
            for name, entry in measured.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _single(at: Setting, measured: dict[str, Any], looked_up: int) -> list[str]:
    """`looked_up`: rows of a step."""
    write = _written(measured)
    lines = [
        f"{_count(at.nodes)} rows x {at.dim} on one GPU (an H100 of {_size(at.single_gpu_memory)}) with "
        f"{_size(at.host_memory)} of main memory:",
        "`kernel: cached`, which `auto` chooses ([gpu.md](gpu.md#tables-larger-than-the-gpu)). Of either memory "
        f"{100 * RESERVED:.0f} % are",
        f"kept free. The bus moves {_size(at.bus)}/s in each direction. None of this has run on a GPU.",
        "",
        "| | fp32 weights | fp16 weights |",
        "| --- | --- | --- |",
    ]
    figures: dict[str, list[str]] = {}
    for size in (4, 2):
        table = StoredTable("node", at.nodes, at.dim * size, row_state=4)
        share = cached_share(at, size)
        on_host, copy = table.on_host(Placement("cached", share)), table_bytes(at.nodes, at.dim, size)
        has_copy = on_host + copy <= at.host_memory * (1 - RESERVED)
        bus = looked_up * table.weights / at.bus
        waits = f"no: training waits {_time(copy / write)} for each checkpoint"
        for name, figure in (
            ("main memory: weights", _size(on_host)),
            ("main memory: while the cache's map is built, beside", _size(16 * at.nodes)),
            ("main memory: room for the copy of a checkpoint", "yes" if has_copy else waits),
            ("GPU: optimizer state", _size(4 * at.nodes)),
            ("GPU: the cache's map of the table", _size(4 * at.nodes)),
            ("GPU: cache", _size(share * at.nodes * table.slot_bytes)),
            ("rows in the cache", f"{_count(share * at.nodes)}, {_share(share)}"),
            (f"rows over the bus per step, if the cache has none of {looked_up:,}", f"{1000 * bus:.1f} ms"),
            ("resulting bound", f"{_count(at.batch / bus)} edges/s"),
        ):
            figures.setdefault(name, []).append(figure)
    return lines + [f"| {name} | {' | '.join(both)} |" for name, both in figures.items()]


def _training(at: Setting, measured: dict[str, Any], bound: float) -> list[str]:
    """`bound`: the edges/s that the network allows one GPU."""
    gpu, cpu = _rate(measured, "train_gpu", "edges_per_s"), _rate(measured, "train_cpu", "edges_per_s")
    epoch = NOT_MEASURED if gpu is None else _time(seconds_for(at.edges, gpu, at.gpus))
    lines = [
        "A GPU computes as fast next to others as alone, and no faster than the network allows.",
        "",
        "| | |",
        "| --- | --- |",
        f"| an epoch on {at.gpus} GPUs | {epoch} |",
        f"| an epoch on {at.gpus} GPUs, at the network's bound | {_time(seconds_for(at.edges, bound, at.gpus))} |",
    ]
    if cpu is not None:
        dim = measured["train_cpu"]["result"]["dim"]
        lines.append(f"| for comparison, an epoch on 2 CPU cores with d={dim} | {_time(seconds_for(at.edges, cpu))} |")
    for name, label in (("reader", "in process"), ("reader_flight", "over Flight")):
        served = _rate(measured, name, "edges_per_s")
        fed = NOT_MEASURED if served is None or gpu is None else f"{readers_per_gpu(gpu, served):.2f}"
        at_most = NOT_MEASURED if served is None else f"{readers_per_gpu(bound, served):.2f}"
        lines.append(f"| readers per GPU, {label} | {fed}; at the network's bound {at_most} |")
    return lines


def _checkpoints(at: Setting, measured: dict[str, Any], table: int) -> list[str]:
    checkpoint, write = measured["checkpoint"]["result"], _written(measured)
    copy = checkpoint["checkpoint_mib"] * 2**20 / checkpoint["copy_ms"] * 1000
    rows = _rate(measured, "export", "rows_per_s")
    export = NOT_MEASURED
    if rows is not None:
        dim = measured["export"]["result"]["dim"]
        took = seconds_for(at.nodes * at.dim, rows * dim)
        export = f"{_time(took)}, at the same values/s as {_count(rows)} rows/s of d={dim}"
    return [
        "Every rank writes its own part, as fast as the single rank that was measured on a local disk. An object store",
        f"must accept {_size(write * at.gpus)}/s from all of them together.",
        "",
        "| | |",
        "| --- | --- |",
        f"| a checkpoint, from start to marker, {_size(write)}/s per rank | "
        f"{_time(seconds_for(table, write, at.gpus))} |",
        f"| of that, the copy that training waits for, {_size(copy)}/s per rank | "
        f"{_time(seconds_for(table, copy, at.gpus))} |",
        f"| export, one process | {export} |",
        "",
        "Export is a single process; its time grows with the number of nodes.",
    ]


def _written(measured: dict[str, Any]) -> float:
    """Bytes of a checkpoint that a rank writes per second."""
    checkpoint = measured["checkpoint"]["result"]
    return float(checkpoint["checkpoint_mib"] * 2**20 / checkpoint["write_ms"] * 1000)


def _prepare(at: Setting, measured: dict[str, Any]) -> list[str]:
    lines = [
        f"The sources have as many rows as edges, executors have {at.cores_per_executor} cores, each as fast as one of",
        "those measured, and shuffles between machines take no time. This is a lower bound.",
        "",
    ]
    for name in ("prepare_spark", "prepare_duckdb"):
        rate, entry = _rate(measured, name, "edges_per_s"), measured[name]
        if rate is None:
            lines.append(f"- {name}: {NOT_MEASURED}.")
            continue
        core = rate / entry["result"]["cores"]
        counts = at.executors if name == "prepare_spark" else (1,)
        times = ", ".join(
            f"{_time(seconds_for(at.edges, core, executors * at.cores_per_executor))} on {executors}"
            for executors in counts
        )
        unit = "executors" if name == "prepare_spark" else "machine"
        lines.append(f"- {name}: {_count(rate)} edges/s on {entry['result']['cores']} cores; {times} {unit}.")
    lines += ["", f"The edges take at most 20 bytes each on disk (int64, int32, int64): {_size(20 * at.edges)}."]
    return lines


def _rate(measured: dict[str, Any], name: str, key: str) -> float | None:
    entry = measured[name]
    return None if entry is None else float(entry["result"][key])


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} PB"


def _count(value: float) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}"


def _time(seconds: float) -> str:
    for unit, size in (("days", 172_800), ("hours", 7_200), ("minutes", 120)):
        if seconds >= size:
            one = {"days": 86_400, "hours": 3_600, "minutes": 60}[unit]
            return f"{seconds / one:.3g} {unit}"
    return f"{seconds:.3g} s"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
