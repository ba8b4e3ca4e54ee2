"""Recall@20 by the weight of `model.prior`: on amazon-book if TWHIN_DATA has it, else on graphs of three popularities.

    python -m benchmarks.bench_prior [--weights 0 0.25 0.5 0.75 1 learned] [--epochs 2] [--set section.key=value ...]
        [--generated]

Each weight is trained at the settings of configs/amazon_book.yaml and a constant rate of 1. In a generated graph, users
and items belong to 50 groups; 7 of 10 edges stay within one, and the popularity of items falls as rank^-exponent.

Ends in one JSON line: for each graph and weight, the recall@20 after each epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.communities import lead_within
from benchmarks.quality import ours
from benchmarks.quality.graph import Graph, measure
from twhin_core.config import file as config_file
from twhin_core.stages.prepare import prepare

CONFIG = "configs/amazon_book.yaml"
EXPONENTS = (0.0, 0.7, 1.2)
USERS, ITEMS, GROUPS, EDGES = 20_000, 20_000, 50, 400_000
SHARE_WITHIN, SHARE_HELD_OUT = 0.7, 0.1


def graphs(is_generated: bool, folder: Path) -> Iterator[tuple[str, Path]]:
    """The name of each graph, and the folder to set TWHIN_DATA to."""
    data = Path(os.environ.get("TWHIN_DATA", "missing"))
    if not is_generated and (data / "amazon-book").exists():
        yield "amazon-book", data
        return
    for exponent in EXPONENTS:
        generate(folder / str(exponent) / "amazon-book", exponent)
        yield f"popularity {exponent}", folder / str(exponent)


def generate(folder: Path, exponent: float) -> None:
    """Writes train.parquet and test.parquet, with distinct edges."""
    rng = np.random.default_rng(0)
    share = np.arange(1, ITEMS + 1) ** -exponent
    user, group_of_item = rng.integers(USERS, size=EDGES), np.arange(ITEMS) % GROUPS
    item = rng.choice(ITEMS, EDGES, p=share / share.sum())
    is_within = rng.random(EDGES) < SHARE_WITHIN
    lead_within(item, is_within, user % GROUPS, group_of_item, share, rng)
    edges = np.unique(np.stack([user, item], 1), axis=0)
    is_test = rng.random(len(edges)) < SHARE_HELD_OUT
    folder.mkdir(parents=True)
    for name, kept in (("train", ~is_test), ("test", is_test)):
        columns = {"user_id": edges[kept, 0].astype(str), "book_id": edges[kept, 1].astype(str)}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def recalls(weight: str, options: argparse.Namespace, root: str) -> list[float]:
    rate = "{spherical_adagrad: {lr: 1.0}}"
    config = config_file.load(
        CONFIG,
        [
            *(f"model.embeddings.tables.{number}.optimizer={rate}" for number in range(2)),
            f"training.num_epochs={options.epochs}",
            f"model.prior={{weight: {weight}}}",
            *options.set,
        ],
    )
    prepare(config, root)  # once: the graph does not depend on the weight
    graph = Graph.read(config, root)
    quality = measure(graph, "recall@20")
    return [round(quality(scores), 4) for _, _, scores in ours.train(config, root, graph, every=1.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["0", "0.25", "0.5", "0.75", "1", "learned"])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, changes the config")
    parser.add_argument("--generated", action="store_true", help="generated graphs even if TWHIN_DATA has amazon-book")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in graphs(options.generated, Path(folder)):
            os.environ["TWHIN_DATA"], root = str(data), f"{folder}/run-{name}"
            found[name] = {}
            for weight in options.weights:
                found[name][weight] = recalls(weight, options, root)
                print(f"{name}, weight {weight}: {found[name][weight]}", flush=True)
    print(json.dumps({"benchmark": "prior", "metric": "recall@20", "graphs": found}))


if __name__ == "__main__":
    main()
