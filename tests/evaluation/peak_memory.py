"""A table as large as asked on disk, and the peak memory of a process that ranks against it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

from twhin_core import __version__
from twhin_core.checkpoints.checkpoint import Checkpoint, Marker, Position
from twhin_core.checkpoints.description import model_description
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.evaluation.measure import measure
from twhin_core.graph.manifest import read_schema
from twhin_core.model.scorer import Scorer

DIM, HELD_OUT = 64, 200


def config_of(folder: Path, rows: int) -> Config:
    sgd = {"sgd": {"lr": 0.1}}
    tree = {
        "model": {
            "embeddings": {
                "tables": [{"name": "node", "num_embeddings": rows, "embedding_dim": DIM, "optimizer": sgd}]
            },
            "relations": [{"name": "to", "lhs": "node", "rhs": "node"}],
            "translation_optimizer": sgd,
        },
        "train_data": {"data_root": f"{folder}/train.parquet", "per_replica_batch_size": 100, "global_negatives": 1},
        "test_data": {"data_root": f"{folder}/test.parquet"},
        "evaluation": {"memory_limit": "48MB"},
    }
    return config_file.validate(Config, tree, "peak_memory")


def write(folder: Path, rows: int, edges: int) -> None:
    """A checkpoint of a table of `rows` random rows, and `edges` training edges."""
    rng = np.random.default_rng(0)
    for name, size in (("train", edges), ("test", HELD_OUT)):
        lhs, rhs = rng.integers(rows, size=(2, size))
        table = pa.table({"lhs": lhs, "rel": np.zeros(size, np.int32), "rhs": rhs})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=50_000)
    config = config_of(folder, rows)
    scorer = Scorer(config.model, config.model.relations)
    state = {f"scorer.{name}": parameter.data for name, parameter in scorer.named_parameters()}
    state["tables.embeddings.node.weight"] = torch.randn(rows, DIM)
    dcp.save(state, storage_writer=FsspecWriter(str(folder / "checkpoint")), no_dist=True)


def main(folder: Path, rows: int) -> None:
    """Prints the peak memory in MiB."""
    config = config_of(folder, rows)
    model = model_description(config, read_schema(config, str(folder)))
    marker = Marker(version=__version__, position=Position(step=1), model=model)
    metrics, *_ = measure(config, str(folder), Checkpoint(str(folder / "checkpoint"), marker))
    assert metrics["test"]["all"]["edges"] == HELD_OUT
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
