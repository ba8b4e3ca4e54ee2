"""How near the limit of the device a training step is: edges/s, time per kernel, and bandwidth of the tables.

One table, one translation relation, dot product, softmax over uniform negatives that chunks of positives share,
row-wise Adagrad, bf16 products. `benchmarks.gpu.others` does the same work by other loops.

    python -m benchmarks.gpu.step [--device cpu]
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.gpu.common import Sizes, ceilings, options, peak, report, seconds, timed, warm_up
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.epochs import State
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.parquet import ROWS_PER_GROUP
from twhin_core.schema import Schema
from twhin_core.training.batches import Batches
from twhin_core.training.build import TrainableModel, build
from twhin_core.training.joined_tables import JoinedTables

LR = 0.1


def make_config(sizes: Sizes, negatives: int, **settings: Any) -> Config:
    """`settings`: of the table."""
    table = {"num_embeddings": sizes.rows, "embedding_dim": sizes.dim, "optimizer": {"rowwise_adagrad": {"lr": LR}}}
    table |= settings
    tree = {
        "runtime": {"enable_amp": True},
        "model": {
            "embeddings": {"tables": [{"name": "node", **table}]},
            "relations": [{"name": "to", "lhs": "node", "rhs": "node"}],
            "translation_optimizer": {"adagrad": {"lr": LR}},
            "loss": "softmax",
        },
        "train_data": {
            "data_root": "in memory",
            "per_replica_batch_size": sizes.batch,
            "global_negatives": negatives,
            "chunk_size": sizes.chunk,
        },
    }
    return config_file.validate(Config, tree, "benchmark")


def make_schema(config: Config, sizes: Sizes) -> Schema:
    return Schema({"node": sizes.rows}, config.model.relations)


def write_edges(folder: str, sizes: Sizes) -> str:
    """Edges whose ends are of power-law popularity, as a file that training reads; its path."""
    rng = np.random.default_rng(0)
    lhs, rhs = ((sizes.rows * rng.random(sizes.edges) ** 3).astype(np.int64) for _ in range(2))
    path = f"{folder}/edges.parquet"
    columns = {"lhs": lhs, "rel": np.zeros(len(lhs), np.int32), "rhs": rhs}
    pq.write_table(pa.table(columns), path, row_group_size=ROWS_PER_GROUP, compression="none")
    return path


def waiting(batches: Iterator[Any], waited: list[float]) -> Iterator[Any]:
    """The batches; `waited[0]` gathers the seconds that they were waited for."""
    while True:
        started = time.perf_counter()
        batch = next(batches)
        waited[0] += time.perf_counter() - started
        yield batch


def measure_ours(model: TrainableModel, edges: EdgeFiles, sizes: Sizes, ranks: Ranks, flops: float) -> None:
    for negatives in sizes.negatives:
        config = make_config(sizes, negatives)
        batches = Batches(config, make_schema(config, sizes), edges, config.train_data, ranks)
        epochs = batches.epochs(State(epoch=0, edges=0), num_epochs=10**6)
        waited = [0.0]
        steps = model.steps(waiting(((batch, None) for batch, _ in epochs), waited))
        if ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        warm_up(steps, sizes.steps)
        waited[0] = 0.0
        per_step = timed(steps, sizes.steps, ranks.device)
        # Products with the candidates, forward and for both gradients, for both sides.
        useful = 2 * 6 * sizes.batch * negatives * sizes.dim
        report(
            "step", negatives=negatives, edges_per_s=round(sizes.batch / per_step),
            ms_per_step=round(per_step * 1e3, 3),
            useful_tflops=round(useful / per_step / 1e12, 1), share_of_bf16_peak=round(useful / per_step / flops, 3),
            waiting_for_data=round(waited[0] / (per_step * sizes.steps), 3), peak_GiB=peak(ranks.device),
        )  # fmt: skip
        if ranks.device.type == "cuda" and negatives in (sizes.negatives[0], sizes.negatives[-1]):
            profile(steps, negatives)
        for kept in ("pipeline", "_captured"):  # what these hold is of this number of negatives
            model.__dict__.pop(kept, None)
        epochs.close()


def profile(steps: Iterator[Any], negatives: int, count: int = 10) -> None:
    """Reports the share of the device's busy time by kernel, and how busy it was."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    started = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in itertools.islice(steps, count):
            pass
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    kernels: dict[str, float] = {}
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation:
            kernels[event.name] = kernels.get(event.name, 0.0) + event.self_device_time_total
    busy = sum(kernels.values())
    top = sorted(kernels.items(), key=lambda item: -item[1])[:22]
    report(
        "profile", negatives=negatives, busy_ms_per_step=round(busy / count / 1e3, 3),
        ms_per_step=round(elapsed / count * 1e3, 3),
        kernels={name[:90]: round(taken / count / 1e3, 4) for name, taken in top},
    )  # fmt: skip


def measure_tables(model: TrainableModel, sizes: Sizes, ranks: Ranks, copied: float) -> None:
    """The bandwidth of looking rows up and updating them, of all that has to be moved for it."""
    tables = model.model.module.tables
    if not isinstance(tables, JoinedTables):
        return  # on a CPU
    for rows in (2 * sizes.batch, 16 * sizes.batch):
        index = torch.randint(sizes.rows, (rows,), device=ranks.device)
        model.optimizers.start()
        gradient = torch.randn(rows, sizes.dim, device=ranks.device)

        def look_up(index: Tensor = index) -> Tensor:
            found: Tensor = tables.gather([index])[0]
            return found

        def update(gradient: Tensor = gradient) -> None:
            look_up().grad = gradient
            tables.update()

        forward = seconds(look_up, ranks.device)
        both = seconds(update, ranks.device)
        # Read and write each row once to look it up; read its gradient, read and write it to update it.
        moved = rows * 4 * sizes.dim * 5
        report(
            "tables", rows=rows, lookup_ms=round(forward * 1e3, 3), lookup_and_update_ms=round(both * 1e3, 3),
            share_of_copy_bandwidth=round(moved / both / copied, 3),
        )  # fmt: skip


def measure(sizes: Sizes, ranks: Ranks) -> None:
    copied, flops = ceilings(ranks.device)
    report("ceilings", copy_GB_per_s=round(copied / 1e9, 1), bf16_tflops=round(flops / 1e12, 1))
    config = make_config(sizes, sizes.negatives[0])
    schema = make_schema(config, sizes)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        edges = EdgeFiles([write_edges(folder, sizes)], schema)
        written = time.perf_counter()
        model = build(config, schema, ranks)
        report("build", edges_s=round(written - started, 1), model_s=round(time.perf_counter() - written, 1))
        measure_tables(model, sizes, ranks, copied)
        measure_ours(model, edges, sizes, ranks, flops)


def main() -> None:
    device, sizes, _ = options(__doc__, [])
    with process_group() as ranks:
        assert ranks.device.type == device.type
        measure(sizes, ranks)


if __name__ == "__main__":
    main()
