"""How fast are edges read and shuffled, in process and from a reader process over loopback, and with how much memory?

Edges are generated, in Parquet files as prepare writes them. Alternates epochs in process and over Flight, each in its
own process, and then reads an epoch of twice the edges in process to compare peak memory. Also reports the size on the
wire of a batch with its negatives, and the time to make it. Ends in one JSON line.

    python -m benchmarks.bench_reader [--edges 12000000] [--batch 10000] [--rounds 3] [--buffer 4194304]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.epochs import EpochReader
from twhin_core.data.readers import read_secrets, served_edges
from twhin_core.data.remote import Remote
from twhin_core.data.splits import open_split
from twhin_core.data.windows import Windows
from twhin_core.graph.manifest import read_schema
from twhin_core.parquet import ROWS_PER_FILE, write_parts

NODES = 5_000_000
SERVE = "from twhin.pipelines.cli import main; main()"


def make_config(folder: Path, edges: int, options: argparse.Namespace) -> Path:
    """Writes edges and a config that reads them. Returns the path of the config."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("lhs", pa.int64()), ("rel", pa.int32()), ("rhs", pa.int64())])

    def batches() -> Any:
        for start in range(0, edges, ROWS_PER_FILE):
            size = min(ROWS_PER_FILE, edges - start)
            columns = (
                rng.integers(NODES, size=size),
                rng.integers(3, size=size, dtype=np.int32),
                rng.integers(NODES, size=size),
            )
            yield pa.record_batch(list(columns), schema=schema)

    write_parts(batches(), schema, str(folder), "edges")
    table = {"num_embeddings": NODES, "embedding_dim": 64, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}}
    tree = {
        "model": {
            "embeddings": {"tables": [{"name": name, **table} for name in ("user", "item")]},
            "relations": [{"name": name, "lhs": "user", "rhs": "item"} for name in ("likes", "buys", "rates")],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "loss": "softmax",
        },
        "train_data": {
            "data_root": f"{folder}/edges",
            "per_replica_batch_size": options.batch,
            "global_negatives": 50,
            "in_batch_negatives": 50,
            "shuffle_buffer": options.buffer,
        },
    }
    path = folder / "config.yaml"
    path.write_text(config_file.to_yaml(config_file.validate(Config, tree, "bench_reader")))
    return path


def read(path: Path, reader: str | None, epoch: int) -> dict[str, Any]:
    """Reads an epoch: edges/s, nanoseconds of processor time per edge, and this process's peak memory in MiB."""
    config = config_file.load(str(path))
    files = open_split(config, "unused", read_schema(config, "unused"), "train")
    windows = Windows(files, config.training.seed, config.train_data.shuffle_buffer)
    before = peak_mib("self")
    if reader is None:
        loader = EpochReader(windows, config.train_data.per_replica_batch_size)
    else:
        source = Remote([reader], served_edges(config, files), read_secrets(), 60)
        loader = EpochReader(windows, config.train_data.per_replica_batch_size, source=source)
    loader.load_state_dict({"epoch": epoch, "edges": 0})
    started, worked = time.perf_counter(), time.process_time()
    edges = sum(len(step.edges) for step in loader.steps(epoch + 1))
    assert edges == len(files)
    speed = edges / (time.perf_counter() - started)
    nanoseconds = (time.process_time() - worked) / edges * 1e9
    peak = peak_mib("self")
    return {"speed": speed, "ns": nanoseconds, "peak": peak, "grown": peak - before}


def peak_mib(process: int | str) -> float:
    """The peak memory of a process. Unlike getrusage, excludes that of its parent."""
    return int(Path(f"/proc/{process}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def alone(function: Any, *arguments: Any) -> Any:
    """Calls a function in a fresh process, so that its memory can be measured."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def start_reader(path: Path) -> tuple[subprocess.Popen[str], str]:
    """Starts a reader process and returns it with its address."""
    command = [sys.executable, "-c", SERVE, "serve-edges", str(path), "--run-root", "unused", "--bind", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "edges at" in line)
    return process, line.split()[-1]


def whole_batches(path: Path) -> dict[str, float]:
    """The bytes per edge of a batch with its negatives, and the time to make it."""
    import torch

    from twhin_core.model.batch_maker import BatchMaker

    torch.set_num_threads(1)
    config = config_file.load(str(path))
    schema = read_schema(config, "unused")
    windows = Windows(open_split(config, "unused", schema, "train"), 0, 500_000)
    maker, generator = BatchMaker(schema, config.model, config.train_data), torch.Generator()
    steps = EpochReader(windows, config.train_data.per_replica_batch_size).steps(1)
    times, sizes = [], []
    for _, step in zip(range(20), steps, strict=False):
        started = time.perf_counter()
        batch = maker.make(step.edges, step.step_edges, generator)
        times.append(time.perf_counter() - started)
        sizes.append(len(pickle.dumps(batch, protocol=5)))
    edges = config.train_data.per_replica_batch_size
    return {"ms": statistics.median(times) * 1e3, "bytes_per_edge": statistics.median(sizes) / edges}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--edges", type=int, default=12_000_000)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--buffer", type=int, default=4_194_304)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        once, twice = Path(name, "once"), Path(name, "twice")
        for folder, edges in ((once, options.edges), (twice, 2 * options.edges)):
            folder.mkdir()
            make_config(folder, edges, options)
        process, reader = start_reader(once / "config.yaml")
        try:
            local, remote = [], []
            for epoch in range(options.rounds):  # different epochs, since the reader caches windows
                local.append(alone(read, once / "config.yaml", None, epoch))
                remote.append(alone(read, once / "config.yaml", reader, epoch))
            serving = peak_mib(process.pid)
        finally:
            process.kill()
        longer = alone(read, twice / "config.yaml", None, 0)
        batches = alone(whole_batches, once / "config.yaml")
    in_process = statistics.median(run["speed"] for run in local)
    flight = statistics.median(run["speed"] for run in remote)
    work = statistics.median(run["ns"] for run in local)
    print(
        json.dumps(
            {
                "edges": options.edges,
                "buffer": options.buffer,
                "in_process_edges_per_s": round(in_process),
                "in_process_ns_of_processor_per_edge": round(work, 1),
                "flight_edges_per_s": round(flight),
                "flight_share": round(flight / in_process, 2),
                "peak_mib": round(statistics.median(run["peak"] for run in local)),
                "peak_mib_of_twice_the_edges": round(longer["peak"]),
                "peak_mib_above_start": round(statistics.median(run["grown"] for run in local)),
                "peak_mib_of_the_reader": round(serving),
                "bytes_per_edge": 20,
                "batch_bytes_per_edge": round(batches["bytes_an_edge"], 1),
                "batch_ms": round(batches["ms"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
