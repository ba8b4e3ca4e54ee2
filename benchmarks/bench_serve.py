"""How many requests a second does `twhin serve` answer, and how fast, beside a bare loop of faiss searches?

Makes a run with an index of items (kept in --folder for the next time), serves it, and asks it from separate processes
over connections that are kept alive: `/recommend` for one random user a request, without known edges. Then, in the same
run:

- the share of the exact answers: `/neighbors` for a sample of users against a product of numpy with all items;
- faiss alone, in one process: one query after the other on one core.

All processes share the cores. Ends in one JSON line, with the ratio to faiss alone.

    python -m benchmarks.bench_serve --folder DIR [--items 1000000] [--dim 64] [--kind hnsw] [--k 10] [--seconds 8]
        [--clients 2] [--connections 1 8 32]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.serve_run import ITEMS_PER_USER, make_run
from twhin_core.export import faiss_library

COMMAND = "from twhin.pipelines.cli import main; main()"
SAMPLE, BARE, HOST = 200, 20_000, "127.0.0.1"


@contextlib.contextmanager
def served(root: str, folder: Path) -> Iterator[int]:
    """Serves the run while the block runs; gives the port."""
    log = folder / "serve.log"
    with log.open("w") as errors:
        command = [sys.executable, "-c", COMMAND, "serve", root, "--bind", f"{HOST}:0"]
        process = subprocess.Popen(command, stderr=errors)
        try:
            while not (found := re.search(rf"http://{HOST}:(\d+)\n", log.read_text())):
                if process.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.1)
            yield int(found[1])
        finally:
            process.terminate()
            process.wait()


async def ask(port: int, users: int, k: int, until: float, seed: int) -> list[float]:
    """Asks over one connection until a time; the seconds that each answer took."""
    reader, writer = await asyncio.open_connection(HOST, port)
    chosen, taken = np.random.default_rng(seed), list[float]()
    while time.monotonic() < until:
        target = f"/recommend?relation=fav&ids={chosen.integers(users)}&k={k}"
        started = time.perf_counter()
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        taken.append(time.perf_counter() - started)
    writer.close()
    return taken


def client(port: int, users: int, k: int, connections: int, until: float, number: int) -> list[float]:
    async def ask_all() -> list[float]:
        asked = (ask(port, users, k, until, 1000 * number + connection) for connection in range(connections))
        return [seconds for of in await asyncio.gather(*asked) for seconds in of]

    return asyncio.run(ask_all())


def load(options: argparse.Namespace, port: int, users: int, connections: int) -> dict[str, float]:
    clients = min(options.clients, connections)
    shares = [connections // clients + (number < connections % clients) for number in range(clients)]
    until = time.monotonic() + options.seconds
    arguments = [(port, users, options.k, share, until, number) for number, share in enumerate(shares)]
    with multiprocessing.get_context("spawn").Pool(clients) as pool:
        pool.map(abs, range(clients))  # they have started
        until = time.monotonic() + options.seconds
        arguments = [(*of[:4], until, of[5]) for of in arguments]
        taken = np.array([seconds for of in pool.starmap(client, arguments) for seconds in of])
    return {
        "connections": connections,
        "requests_per_s": round(len(taken) / options.seconds, 1),
        "p50_ms": round(float(np.quantile(taken, 0.5)) * 1000, 2),
        "p99_ms": round(float(np.quantile(taken, 0.99)) * 1000, 2),
    }


def read_vectors(root: str, table: str) -> tuple[list[str], np.ndarray]:
    rows = pq.read_table(f"{root}/embeddings/{table}", columns=["id", "embedding"])
    return rows["id"].to_pylist(), rows["embedding"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)


def recall(port: int, k: int, users: list[str], queries: np.ndarray, ids: list[str], items: np.ndarray) -> float:
    """The share of the k best items by brute force that the server finds."""
    found = 0
    with contextlib.closing(http.client.HTTPConnection(HOST, port)) as connection:
        for user, scores in zip(users, queries @ items.T, strict=True):
            connection.request("GET", f"/neighbors?table=user&ids={user}&relation=fav&k={k}")
            answer = json.load(connection.getresponse())["answers"][0]["found"]
            best = np.argpartition(scores, -k)[-k:]
            found += len({ids[row] for row in best} & {of["id"] for of in answer})
    return round(found / (k * len(users)), 4)


def resident_mib(port: int) -> int:
    with contextlib.closing(http.client.HTTPConnection(HOST, port)) as connection:
        connection.request("GET", "/metrics")
        (found,) = re.findall(r"^process_resident_memory_bytes (\S+)$", connection.getresponse().read().decode(), re.M)
    return round(float(found) / 2**20)


def bare(root: str, k: int, queries: np.ndarray, seconds: float) -> float:
    """Queries a second of faiss alone."""
    faiss = faiss_library.load()
    index = faiss.read_index(f"{root}/embeddings/faiss/item.index")
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        index.search(queries[count % len(queries)][None], k)
        count += 1
    return round(count / (time.perf_counter() - started), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--kind", choices=["flat", "hnsw", "ivf_pq"], default="hnsw")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--clients", type=int, default=2, help="processes")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    root, users = make_run(options.folder, options.items, options.dim, options.kind), options.items // ITEMS_PER_USER
    names, vectors = read_vectors(root, "user")
    ids, items = read_vectors(root, "item")
    sample = np.random.default_rng(0).choice(users, min(SAMPLE, users), replace=False)
    translation = np.array(pq.read_table(f"{root}/embeddings/relations.parquet")["embedding"][0].as_py(), np.float32)
    queries = vectors[sample] + translation
    loads, started = [], time.perf_counter()
    with served(root, options.folder) as port:
        ready = round(time.perf_counter() - started, 1)
        load(argparse.Namespace(**{**vars(options), "seconds": 2}), port, users, 8)  # pages of the index are read
        for connections in options.connections:
            loads.append(load(options, port, users, connections))
            print("twhin serve ", loads[-1], flush=True)
        share = recall(port, options.k, [names[row] for row in sample], queries, ids, items)
        resident = resident_mib(port)
    asked = np.random.default_rng(1).choice(users, min(BARE, users), replace=False)
    alone = bare(root, options.k, vectors[asked] + translation, options.seconds)
    print(f"faiss alone {alone:,}/s; recall {share}", flush=True)
    print(f"ready after {ready} s; {resident:,} MiB are resident, mapped files included", flush=True)
    result = {
        "benchmark": "serve", "items": options.items, "dim": options.dim, "kind": options.kind, "k": options.k,
        "cores": len(os.sched_getaffinity(0)), "ready_s": ready, "resident_mib": resident, "loads": loads,
        "recall": share, "bare_per_s": alone,
        "of_bare": round(max(of["requests_per_s"] for of in loads) / alone, 3),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
