"""The way from a raw file to vectors, timed as a whole: ours beside PyTorch-BigGraph, at LiveJournal's size.

Generates a text file of edges between users, of whom some follow many and some are followed by many, most of them
within a community. Each system prepares it with its own tool and trains one epoch, in a process of its own. Their
vectors then rank the ends of the same held-out edges among the same 1,000 random users. PyTorch-BigGraph takes part if
it is installed (docs/performance.md says how). Ends in one JSON line: seconds of each part, MRR, the peak memory of
each process, and our share of PyTorch-BigGraph's time.

    python -m benchmarks.bench_pipeline [--nodes 4800000] [--edges 68000000] [--others pbg] [--set section.key=value]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyarrow import csv

from benchmarks.pipeline import ours, pbg
from benchmarks.pipeline.ranks import Vectors, mean_reciprocal_rank, names

Run = Callable[[Path, argparse.Namespace], tuple[tuple[float, float], Vectors]]
"""Runs a system in a folder; gives the seconds of importing and of training, and the vectors."""

RUNS: dict[str, Run] = {"twhin": ours.run, "pbg": pbg.run}

COMMUNITY = 1000
"""Users of a community."""
WITHIN = 0.8
"""The share of edges within a community."""
EDGES_AT_ONCE = 4_000_000
HELD_OUT = 10_000


def make_raw(folder: Path, nodes: int, edges: int) -> None:
    """`train.tsv` and `test.tsv`: a user and whom they follow in each line.

    Every user of test.tsv is almost surely in train.tsv; edges with others are left out when ranks are taken.
    """
    rng = np.random.default_rng(0)
    with open(folder / "train.tsv", "wb") as train, open(folder / "test.tsv", "wb") as test:
        for file, count in ((test, HELD_OUT), (train, edges)):
            for start in range(0, count, EDGES_AT_ONCE):
                size = min(EDGES_AT_ONCE, count - start)
                lhs = skewed(rng, nodes, size)
                community = lhs % (nodes // COMMUNITY)  # popular users are spread over all of them
                within = skewed(rng, COMMUNITY, size) * (nodes // COMMUNITY) + community
                rhs = np.where(rng.random(size) < WITHIN, within, skewed(rng, nodes, size))
                columns = [names(lhs), names(rhs)]
                options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
                csv.write_csv(pa.table(columns, names=["lhs", "rhs"]), file, options)


def skewed(rng: np.random.Generator, count: int, size: int) -> npt.NDArray[np.int64]:
    """Numbers n below `count`, the smaller the more often: with a density of 1 / √n."""
    return (count * rng.random(size) ** 2).astype(np.int64)


def measured(run: Run, results: dict[str, Any], name: str, folder: Path, options: argparse.Namespace) -> None:
    """Runs one system; in a process of its own, whose peak memory is taken before quality is measured."""
    torch.set_num_threads(options.threads)
    (preparing, training), vectors = run(folder, options)
    results[name] = {
        "prepare_seconds": round(preparing, 1),
        "train_seconds": round(training, 1),
        "seconds": round(preparing + training, 1),
        "peak_mib": vectors.peak_mib,
        "mrr": round(mean_reciprocal_rank(vectors, folder, options.nodes), 4),
    }
    print(f"{name}: {results[name]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4_800_000)
    parser.add_argument("--edges", type=int, default=68_000_000)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, changes our config")
    parser.add_argument("--others", nargs="*", choices=["pbg"], default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="where the raw file and the runs are put; default: the system's folder")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.folder) as made, spawn.Manager() as manager:
        folder, results = Path(made), manager.dict()
        began = time.perf_counter()
        make_raw(folder, options.nodes, options.edges)
        print(f"generated in {time.perf_counter() - began:.0f} s", flush=True)
        for name in ("twhin", *options.others):
            process = spawn.Process(target=measured, args=(RUNS[name], results, name, folder, options))
            process.start()
            process.join()
        found = dict(results)
    if "pbg" in found:
        found["share_of_time"] = round(found["twhin"]["seconds"] / found["pbg"]["seconds"], 3)
    print(json.dumps({"benchmark": "pipeline", "nodes": options.nodes, "edges": options.edges, **found}))


if __name__ == "__main__":
    main()
