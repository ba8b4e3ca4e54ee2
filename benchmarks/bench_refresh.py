"""How much training does the second day need, from the first day's vectors and from none?

Cuts a graph of users and items in two: the second day has all users and training edges, the first lacks a share of the
users altogether and, of the others, a share of their training edges. Trains the first day, then the second one from
nothing and for fewer epochs from the first day's vectors, also with anchors of several weights. Ranks the same test
edges for each, and compares the vectors of users without new edges with those of the first day: the overlap of their
ten nearest items.

    python -m benchmarks.bench_refresh configs/amazon_book.yaml --epochs 5 [--anchors 0.01 0.1] [--users 0.2]
        [--new-users 0.05] [--new-edges 0.05] [--folder DIR] [--set section.key=value ...]

Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.vectors.names import open_ids

COLUMNS = ("user_id", "book_id")
"""Of the config's sources: a node of the first table, and one of the second."""


def cut(config: Config, options: argparse.Namespace, folder: Path) -> np.ndarray[Any, Any]:
    """Writes `day{1,2}-{train,test}.parquet`. Returns the ids of the users without new edges."""
    assert config.prepare is not None
    rng = np.random.default_rng(0)
    tables = {source.split: pq.read_table(source.path, columns=list(COLUMNS)) for source in config.prepare.sources}
    users = np.unique(tables["train"]["user_id"].to_numpy())
    chosen = users[rng.random(len(users)) < options.users]
    late = chosen[rng.random(len(chosen)) < options.new_users]
    kept = {split: of.filter(pc.is_in(of["user_id"], pa.array(chosen))) for split, of in tables.items()}
    of_late = pc.is_in(kept["train"]["user_id"], pa.array(late)).to_numpy()
    is_new = rng.random(kept["train"].num_rows) < options.new_edges
    pq.write_table(kept["train"].filter(pa.array(~of_late & ~is_new)), folder / "day1-train.parquet")
    pq.write_table(kept["train"], folder / "day2-train.parquet")
    is_late = pc.is_in(kept["test"]["user_id"], pa.array(late))
    pq.write_table(kept["test"].filter(pc.invert(is_late)), folder / "day1-test.parquet")
    pq.write_table(kept["test"], folder / "day2-test.parquet")
    return np.setdiff1d(chosen, np.union1d(late, kept["train"]["user_id"].to_numpy()[is_new]))


def day(options: argparse.Namespace, folder: Path, number: int, changes: dict[str, Any]) -> Config:
    tree = config_file.load(options.config, options.set).model_dump(mode="json", exclude_unset=True)
    for source in tree["prepare"]["sources"]:
        source["path"] = str(folder / f"day{number}-{source['split']}.parquet")
    tree["training"] |= changes
    return config_file.validate(Config, tree, options.config)


def run(config: Config, root: str) -> dict[str, Any]:
    """Prepares, trains and evaluates; the seconds, by the clock and of all cores, are those of the train stage."""
    prepare(config, root)
    started, used = time.monotonic(), time.process_time()
    train(config, root)
    seconds = {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(time.process_time() - used, 1)}
    figures = evaluate(config, root)["test"]["all"]
    return {**seconds, **{name: round(figures[name], 4) for name in ("mrr", "recall@20")}}


def nearest(config: Config, root: str, users: np.ndarray[Any, Any]) -> list[set[str]]:
    """The ids of the ten items with the largest cosine to each user."""
    checkpoint = newest(root)
    assert checkpoint is not None
    found = {}
    for table in (table.name for table in config.model.embeddings.tables):
        rows = checkpoint.rows(table)
        names = [
            name
            for batch in open_ids(config, root, table, rows.size).batches(1 << 16)
            for name in batch["id"].to_pylist()
        ]
        vectors = rows.read(0, rows.size).numpy()
        found[table] = names, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    (user_names, user_vectors), (item_names, item_vectors) = found.values()
    place = {name: row for row, name in enumerate(user_names)}
    scores = user_vectors[[place[user] for user in users]] @ item_vectors.T
    return [{item_names[item] for item in row} for row in np.argpartition(-scores, 10, axis=1)[:, :10]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--epochs", type=int, default=5, help="of the warm runs")
    parser.add_argument("--anchors", type=float, nargs="*", default=[], help="weights of anchors to train with as well")
    parser.add_argument("--users", type=float, default=1.0, help="share of the users to take")
    parser.add_argument("--new-users", type=float, default=0.05)
    parser.add_argument("--new-edges", type=float, default=0.05)
    parser.add_argument("--folder", help="keep the runs here")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        same = cut(config_file.load(options.config, options.set), options, folder)[:1000]
        first = str(folder / "day1")
        config = day(options, folder, 1, {})
        results = {"day 1": run(config, first)}
        print(f"{'day 1':<28}", results["day 1"], flush=True)
        before = nearest(config, first, same)
        start = {"num_epochs": options.epochs, "warm_start": {"from": first}}
        variants: dict[str, dict[str, Any]] = {
            "cold": {},
            "cold, fewer epochs": {"num_epochs": options.epochs},
            "warm": start,
            "warm, random new nodes": {**start, "warm_start": {"from": first, "new_nodes": "random"}},
            "warm, new optimizer state": {**start, "warm_start": {"from": first, "optimizer_state": False}},
            **{
                f"warm, anchor {weight:g}": {**start, "anchor": {"to": first, "weight": weight}}
                for weight in options.anchors
            },
        }
        for number, (name, changes) in enumerate(variants.items()):
            root, config = str(folder / f"day2-{number}"), day(options, folder, 2, changes)
            results[name] = run(config, root)
            overlap = [len(old & new) / 10 for old, new in zip(before, nearest(config, root, same), strict=True)]
            results[name]["overlap@10"] = round(float(np.mean(overlap)), 3)
            print(f"{name:<28}", results[name], flush=True)
        matched = storage.read_json(storage.join(str(folder / "day2-2"), "training/earlier.json"))
        results["matched"] = matched["training.warm_start.from"]["tables"]
        print(json.dumps(results))


if __name__ == "__main__":
    main()
