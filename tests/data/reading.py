"""Starts reader processes, and writes graphs for them to read."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.preloaded import CONTEXT
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.edges import Edges
from twhin_core.data.files import EdgeFiles
from twhin_core.schema import Schema

NODES = 10**7


def make_config(folder: Path, edges: int, rows_per_group: int, **train_data: int) -> Config:
    """A config of a graph of one relation, whose edges are numbered by their lhs; writes it to `folder`."""
    lhs = np.arange(edges)
    columns = {"lhs": lhs, "rel": np.zeros(edges, np.int32), "rhs": lhs * 7 % NODES}
    pq.write_table(pa.table(columns), folder / "edges.parquet", row_group_size=rows_per_group)
    tree = {
        "model": {
            "embeddings": {
                "tables": [
                    {"name": "node", "num_embeddings": NODES, "embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}
                ]
            },
            "relations": [{"name": "likes", "lhs": "node", "rhs": "node"}],
            "translation_optimizer": {"sgd": {"lr": 0.1}},
        },
        "training": {"readers_timeout_in_s": 60},
        "train_data": {
            "data_root": str(folder / "edges.parquet"),
            "per_replica_batch_size": 1000,
            "global_negatives": 1,
            **train_data,
        },
    }
    return config_file.validate(Config, tree, "test")


def write_edges(edges: Edges, schema: Schema, folder: str | Path, rows_per_group: int = 1000) -> EdgeFiles:
    """A data set of those edges, in a file."""
    pq.write_table(pa.table(vars(edges)), f"{folder}/edges.parquet", row_group_size=rows_per_group)
    return EdgeFiles([f"{folder}/edges.parquet"], schema)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(config: Config, address: str) -> None:
    from twhin_core.data import epochs
    from twhin_core.data.serve import serve

    epochs.EDGES_PER_CHUNK = 5000  # so that an end comes amid a stream
    serve(config, "unused", address)


def start_reader(config: Config, address: str) -> ForkServerProcess:
    process = CONTEXT.Process(target=_serve, args=(config, address), daemon=True)
    process.start()
    return process


def wait_for_reader(address: str, seconds: float = 60) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        assert time.monotonic() < deadline, f"{address} does not listen"
        time.sleep(0.01)


@contextlib.contextmanager
def running(config: Config, count: int) -> Iterator[dict[str, ForkServerProcess]]:
    """Readers by their addresses; whoever replaces one puts it in its place, so that it is ended too."""
    readers = {address: start_reader(config, address) for address in (f"127.0.0.1:{free_port()}" for _ in range(count))}
    try:
        for address in readers:
            wait_for_reader(address)
        yield readers
    finally:
        for process in readers.values():
            process.kill()
            process.join(30)
