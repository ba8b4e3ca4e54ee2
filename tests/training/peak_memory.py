"""Trains a table of half a GB for a few steps in this process, and prints what it was told to need and how it grew.

python -m tests.training.peak_memory FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import process_group
from twhin_core.training.trainer import Trainer

ROWS, DIM = 2_000_000, 64


def write(folder: Path) -> Config:
    ends = np.random.default_rng(0).integers(ROWS, size=(2, 60_000))
    pq.write_table(
        pa.table({"lhs": ends[0], "rel": np.zeros(60_000, np.int32), "rhs": ends[1]}), folder / "edges.parquet"
    )
    table = {"num_embeddings": ROWS, "embedding_dim": DIM, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}}
    tree = {
        "model": {
            "embeddings": {"tables": [{"name": "node", **table}]},
            "relations": [{"name": "to", "lhs": "node", "rhs": "node"}],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "loss": "softmax",
        },
        "train_data": {
            "data_root": str(folder / "edges.parquet"), "per_replica_batch_size": 20_000, "global_negatives": 1000,
        },
    }  # fmt: skip
    return config_file.validate(Config, tree, "peak_memory")


def peak() -> int:
    """The peak memory of this program in bytes. Unlike getrusage, excludes that of its parent."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def main() -> None:
    folder = Path(sys.argv[1])
    config = write(folder)
    with process_group() as ranks:
        before = peak()
        trainer = Trainer(config, str(folder / "run"), ranks)
        trainer.run()
    sys.stdout.write(json.dumps([trainer.model.memory.total.device, peak() - before]) + "\n")


if __name__ == "__main__":
    main()
