"""How much training does the second day need, from the first day's vectors and from none?

Cuts a graph of users and items in two: the second day has all users and training edges, the first lacks a share of the
users altogether and, of the others, a share of their training edges. Trains the first day, then the second one from
nothing and for fewer epochs from the first day's vectors, also with anchors of several weights. Ranks the same test
edges for each, and compares its vectors with those of the first day: how many of the ten nearest nodes of the same
table nodes without new edges keep, and what a classifier that was fitted to the first day's vectors keeps of its AUC.
The version from nothing is also measured after a rotation onto the first day's vectors (`export.align`).

    python -m benchmarks.bench_refresh configs/amazon_book.yaml --epochs 5 [--anchors 0.01 0.1] [--users 0.2]
        [--new-users 0.05] [--new-edges 0.05] [--folder DIR] [--set section.key=value ...] [--warm-set ...]

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
QUERIES = 1000
"""Nodes of a table whose nearest ones are compared."""


Names = list[np.ndarray[Any, Any]]
"""Ids of each table."""


def cut(config: Config, options: argparse.Namespace, folder: Path) -> Names:
    """Writes `day{1,2}-{train,test}.parquet`. Returns the ids of the users and of the items without new edges."""
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
    ends = [kept["train"][column].to_numpy() for column in COLUMNS]
    return [np.setdiff1d(of[~of_late & ~is_new], of[of_late | is_new]) for of in ends]


def day(options: argparse.Namespace, folder: Path, number: int, changes: dict[str, Any]) -> Config:
    overrides = options.set + (options.warm_set if "warm_start" in changes else [])
    tree = config_file.load(options.config, overrides).model_dump(mode="json", exclude_unset=True)
    for source in tree["prepare"]["sources"]:
        source["path"] = str(folder / f"day{number}-{source['split']}.parquet")
    tree["training"] |= changes
    if number == 2:
        tree["evaluation"] = {**tree.get("evaluation", {}), "previous": str(folder / "day1")}
    return config_file.validate(Config, tree, options.config)


def aligned(config: Config, root: str) -> Config:
    tree = config.model_dump(mode="json", exclude_unset=True)
    tree["export"] = {**tree.get("export", {}), "align": root}
    return config_file.validate(Config, tree, "aligned")


def run(config: Config, root: str) -> dict[str, Any]:
    """Prepares, trains and evaluates; the seconds, by the clock and of all cores, are those of the train stage."""
    prepare(config, root)
    started, used = time.monotonic(), time.process_time()
    train(config, root)
    seconds = {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(time.process_time() - used, 1)}
    return {**seconds, **measured(config, root)}


def measured(config: Config, root: str) -> dict[str, Any]:
    metrics = evaluate(config, root)
    found = {name: round(metrics["test"]["all"][name], 4) for name in ("mrr", "recall@20")}
    for of in metrics.get("drift", {}).get("relations", {}).values():
        found |= {name: round(of[name], 4) for name in ("auc_before", "auc_now", "auc_kept")}
    return found


def unit_vectors(config: Config, root: str) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Of each table, the vectors by id, at length 1."""
    checkpoint = newest(root)
    assert checkpoint is not None
    found = []
    for table in (table.name for table in config.model.embeddings.tables):
        rows = checkpoint.rows(table)
        batches = open_ids(config, root, table, rows.size).batches(1 << 16)
        names = [name for batch in batches for name in batch["id"].to_pylist()]
        vectors = rows.read(0, rows.size).numpy()
        found.append(dict(zip(names, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True)))
    return found


def overlaps(before: Any, now: Any, same: Names) -> list[float]:
    """Of each table, the share of the ten nearest nodes that nodes without new edges keep; among nodes of both days."""
    shares = []
    for old, new, nodes in zip(before, now, same, strict=True):
        both = sorted(old.keys() & new.keys())
        place = {name: row for row, name in enumerate(both)}
        given = np.array([place[name] for name in nodes.astype(str) if name in place][:QUERIES])
        near = []
        for of in (old, new):
            vectors = np.stack([of[name] for name in both])
            scores = vectors[given] @ vectors.T
            scores[np.arange(len(given)), given] = -np.inf
            near.append(np.argpartition(-scores, 10, axis=1)[:, :10])
        kept = (near[0][:, :, None] == near[1][:, None, :]).sum((1, 2)) / 10
        shares.append(round(float(kept.mean()), 3))
    return shares


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
    parser.add_argument("--warm-set", action="append", default=[], help="as --set, of the warm runs alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        same = cut(config_file.load(options.config, options.set), options, folder)
        first = str(folder / "day1")
        config = day(options, folder, 1, {})
        results = {"day 1": run(config, first)}
        print(f"{'day 1':<28}", results["day 1"], flush=True)
        before = unit_vectors(config, first)
        start = {"num_epochs": options.epochs, "warm_start": {"from": first}}
        variants: dict[str, dict[str, Any]] = {
            "cold": {"seed": 1},
            "cold, fewer epochs": {"seed": 1, "num_epochs": options.epochs},
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
            results[name]["kept@10"] = overlaps(before, unit_vectors(config, root), same)
            print(f"{name:<28}", results[name], flush=True)
            if name == "cold":
                results["cold, rotated"] = measured(aligned(config, first), root)
                print(f"{'cold, rotated':<28}", results["cold, rotated"], flush=True)
        matched = storage.read_json(storage.join(str(folder / "day2-2"), "training/earlier.json"))
        results["matched"] = matched["training.warm_start.from"]["tables"]
        print(json.dumps(results))


if __name__ == "__main__":
    main()
