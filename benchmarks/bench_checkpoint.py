"""How much does a checkpoint slow down training? Alternates steps with and without a checkpoint in flight.

Edges are random. Ends in one JSON line: milliseconds of a step without and during a write, their ratio, the initial
copy, the write, and the total cost of a save in milliseconds and in steps.

    python -m benchmarks.bench_checkpoint [--rows 500000] [--dim 64] [--batch 10000] [--saves 7] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import Position
from twhin_core.checkpoints.writer import CheckpointWriter
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import process_group
from twhin_core.model.batch import Batch
from twhin_core.training.trainer import Trainer

STEPS_WITHOUT = 10


def make_config(options: argparse.Namespace, folder: Path) -> Config:
    rng, edges = np.random.default_rng(0), options.batch * 50
    columns = {side: rng.integers(options.rows, size=edges) for side in ("lhs", "rhs")}
    pq.write_table(pa.table({**columns, "rel": np.zeros(edges, np.int32)}), folder / "edges.parquet")
    table = {
        "embedding_dim": options.dim,
        "num_embeddings": options.rows,
        "optimizer": {"rowwise_adagrad": {"lr": 0.1}},
    }
    tree = {
        "model": {
            "embeddings": {"tables": [{"name": name, **table} for name in ("user", "tweet")]},
            "relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "loss": "softmax",
        },
        "training": {"num_epochs": 1000},
        "train_data": {
            "data_root": str(folder / "edges.parquet"),
            "per_replica_batch_size": options.batch,
            "global_negatives": 100,
        },
    }
    return config_file.validate(Config, tree, "bench_checkpoint")


def batches(trainer: Trainer) -> Iterator[Batch]:
    for epoch in range(1000):
        for batch, _ in trainer.batches.epoch(epoch, 0):
            yield batch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=500_000, help="rows per table")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--saves", type=int, default=7)
    parser.add_argument("--folder", help="where checkpoints are written; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, process_group() as ranks:
        trainer = Trainer(make_config(options, Path(folder)), f"{folder}/run", ranks)
        steps = batches(trainer)

        def step() -> float:
            started = time.perf_counter()
            trainer.model.step(next(steps))
            return time.perf_counter() - started

        without: list[float] = []
        during: list[float] = []
        copies: list[float] = []
        writes: list[float] = []
        costs: list[float] = []
        for _ in range(3):
            step()
        with CheckpointWriter(trainer.root, trainer.description, 1, ranks) as writer:
            for save in range(1, options.saves + 1):
                quiet = [step() for _ in range(STEPS_WITHOUT)]
                started = time.perf_counter()
                writer.save(trainer.model.state(), Position(step=save))
                copies.append(time.perf_counter() - started)
                beside = []
                while writer.is_writing:
                    beside.append(step())
                writes.append(time.perf_counter() - started)
                assert writer.wait()
                costs.append(copies[-1] + sum(beside) - len(beside) * statistics.median(quiet))
                without += quiet
                during += beside
        newest = checkpoint.newest(trainer.root)
        assert newest is not None
        size = sum(path.stat().st_size for path in Path(newest.url).iterdir())
    usual, cost = statistics.median(without), statistics.median(costs)
    result = {
        "checkpoint_mib": size / 2**20,
        "step_ms": 1000 * usual,
        "step_during_write_ms": 1000 * statistics.median(during),
        "ratio": statistics.median(during) / usual,
        "copy_ms": 1000 * statistics.median(copies),
        "write_ms": 1000 * statistics.median(writes),
        "cost_ms": 1000 * cost,
        "cost_steps": cost / usual,
    }
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
