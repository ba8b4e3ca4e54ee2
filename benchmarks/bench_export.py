"""How fast is export, compared with pyarrow writing the same rows from memory?

Makes a checkpoint with one table of random vectors, and exports it with ids as Parquet in a separate process. Then
pyarrow writes the same columns from memory with the same encoding and file layout. Both sync each file to disk. Ends in
one JSON line: rows, seconds of both and their ratio, rows/s, and the exporting process's peak memory and its memory
before the export.

    python -m benchmarks.bench_export [--rows 5000000] [--dim 128] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from twhin_core.checkpoints.checkpoint import Position, newest
from twhin_core.checkpoints.description import model_description
from twhin_core.checkpoints.writer import CheckpointWriter
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import process_group
from twhin_core.graph.manifest import read_schema
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import encoding, rows_per_group
from twhin_core.stages.export import export

TABLE = "node"


def make_config(rows: int, dim: int) -> Config:
    table = {"name": TABLE, "num_embeddings": rows, "embedding_dim": dim, "optimizer": {"sgd": {"lr": 0.1}}}
    tree = {
        "model": {
            "embeddings": {"tables": [table]},
            "relations": [{"name": "near", "lhs": TABLE, "rhs": TABLE}],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
        },
        "train_data": {"data_root": "none", "per_replica_batch_size": 1, "global_negatives": 1},
    }
    return config_file.validate(Config, tree, "bench_export")


def save(config: Config, root: str) -> None:
    """A checkpoint of random vectors."""
    schema = read_schema(config, root)
    vectors = torch.randn(schema.tables[TABLE], config.model.dim, generator=torch.Generator().manual_seed(0))
    scorer = Scorer(config.model, schema.relations)
    state = {f"tables.embeddings.{TABLE}.weight": vectors}
    state |= {f"scorer.{name}": parameter.data for name, parameter in scorer.named_parameters()}
    with process_group() as ranks, CheckpointWriter(root, model_description(config, schema), 1, ranks) as writer:
        writer.save(state, Position(step=1))
        assert writer.wait()


def export_here(config: Config, root: str) -> None:
    """Runs in the child. Prints seconds, and MiB before and at the peak."""
    before = peak()
    started = time.perf_counter()
    export(config, root)
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, before, peak()]))


def peak() -> float:
    """The peak memory of this program in MiB. Unlike getrusage, excludes that of its parent."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def write_from_memory(config: Config, root: str, folder: Path) -> float:
    """Seconds that pyarrow takes to write the exported rows."""
    vectors = newest(root).rows(TABLE).read(0, config.model.table(TABLE).num_embeddings or 0).numpy()
    index = pa.array(np.arange(len(vectors)))
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"index": index, "id": index.cast(pa.string()), "embedding": embedding})
    folder.mkdir()
    started = time.perf_counter()
    for number, start in enumerate(range(0, len(table), config.export.rows_per_file)):
        path = folder / f"part-{number:05d}.parquet"
        part = table.slice(start, config.export.rows_per_file)
        pq.write_table(part, path, row_group_size=rows_per_group(table.schema), **encoding(table.schema))
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--folder", help="where the run is written; default: a temporary folder")
    parser.add_argument("--root", help=argparse.SUPPRESS)  # the run that the child exports
    options = parser.parse_args()
    config = make_config(options.rows, options.dim)
    if options.root is not None:
        export_here(config, options.root)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = f"{folder}/run"
        save(config, root)
        command = [sys.executable, "-m", "benchmarks.bench_export", *sys.argv[1:], "--root", root]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds, before, peak = json.loads(out.splitlines()[-1])
        from_memory = write_from_memory(config, root, Path(folder, "from_memory"))
    result = {
        "rows": options.rows,
        "dim": options.dim,
        "seconds": round(seconds, 2),
        "rows_per_s": round(options.rows / seconds),
        "pyarrow_from_memory_seconds": round(from_memory, 2),
        "share_of_pyarrow": round(from_memory / seconds, 3),
        "peak_mib": round(peak),
        "mib_before": round(before),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
