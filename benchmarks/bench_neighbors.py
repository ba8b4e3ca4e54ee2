"""How long does `twhin neighbors` take, from the shell's prompt to the answer?

Makes a run with two tables: prepared, trained for one step, exported as Parquet and as a flat index. Then times, in
turn:

- a bare program that imports what the command requires (torch, pyarrow, pydantic) and finds the nearest rows of the
  same vectors, in an npy file, with a numpy product and argpartition;
- the command, for the nearest nodes, with a relation, and through the index;
- the command without the checkpoint, when it must decode Parquet.

Ends in one JSON line: the median seconds of each, and the ratio of the plain command to the bare program.

    python -m benchmarks.bench_neighbors [--rows 1000000] [--dim 64] [--repeats 5] [--folder DIR]

If a folder is given, the run is kept there for the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

COMMAND = "from twhin.pipelines.cli import main; main()"

BARE = """
import sys
import numpy as np, pyarrow.parquet, pydantic, torch
vectors = np.load(sys.argv[1], mmap_mode="r")
scores = vectors @ vectors[7]
best = np.argpartition(scores, -10)[-10:]
print(best[np.argsort(-scores[best])])
"""


def make_run(options: argparse.Namespace, folder: Path) -> None:
    """Every node has one edge, and the vectors are nearly the initial ones."""
    rng = np.random.default_rng(0)
    columns = {side: pa.array(rng.permutation(options.rows)) for side in ("lhs", "rhs")}
    pq.write_table(pa.table(columns), folder / "edges.parquet")
    table = {"embedding_dim": options.dim, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}}
    tree = {
        "prepare": {"sources": [{"path": str(folder / "edges.parquet"), "relation": "fav"}], "split": None},
        "model": {
            "embeddings": {"tables": [{"name": name, **table} for name in ("user", "tweet")]},
            "relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
        },
        "training": {"num_train_steps": 1},
        "export": {"formats": ["parquet", "faiss"]},
        "train_data": {"per_replica_batch_size": 1000, "global_negatives": 10},
    }
    config, root = config_file.validate(Config, tree, "bench_neighbors"), str(folder / "run")
    for stage in (prepare, train, export):
        stage(config, root)
    checkpoint = newest(root)
    assert checkpoint is not None
    np.save(folder / "user.npy", checkpoint.rows("user").read(0, options.rows).numpy())


@contextlib.contextmanager
def folder_of(options: argparse.Namespace) -> Iterator[Path]:
    with contextlib.nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(exist_ok=True)
        yield Path(folder)


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows per table")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the run is, or will be made; default: a temporary folder")
    options = parser.parse_args()
    times: dict[str, list[float]] = {}
    with folder_of(options) as folder:
        root = folder / "run"
        if not root.exists():
            make_run(options, folder)
        ask = [COMMAND, "neighbors", str(root), "user", "77"]
        programs = {
            "bare": [BARE, str(folder / "user.npy")],
            "near": ask,
            "relation": [*ask, "--relation", "fav"],
            "index": [*ask, "--relation", "fav", "--index"],
            "exported": ask,
        }
        for _ in range(options.repeats + 1):
            for name, program in programs.items():
                if name == "exported":
                    (root / "checkpoints").rename(folder / "checkpoints")
                times.setdefault(name, []).append(seconds(*program))
            (folder / "checkpoints").rename(root / "checkpoints")
    median = {name: statistics.median(of[1:]) for name, of in times.items()}  # the first call reads from disk
    result = {"rows": options.rows, "dim": options.dim, **{f"{name}_s": round(of, 2) for name, of in median.items()}}
    print(json.dumps({**result, "ratio": round(median["near"] / median["bare"], 2)}))


if __name__ == "__main__":
    main()
