"""What content of nodes is worth: on generated networks whose content tells the community, and whose content is noise.

Users interact mostly with items of their community. A fifth of the items have no training edge: all their edges are
test edges. The content of an item is a vector; either that of its community with noise, or noise alone. Prints
recall@20 of the test edges of trained and of new items, among all items but those that the user is known to like, for
each kind of content and without any, with the mean and a 95 % interval over the seeds; ends in one JSON line.

    python benchmarks/bench_features.py --seeds 3
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.graph.manifest import find_manifest
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.vectors.names import open_ids

USERS, ITEMS, COMMUNITIES, EDGES_PER_USER = 2000, 2000, 40, 25
WITHIN = 0.9
"""The share of a user's edges within the community."""
NEW = 0.2
"""The share of items without training edges."""
LENGTH, NOISE = 48, 1.0
"""Of the vectors; the noise relative to the distance of communities."""
K = 20
KINDS = ("none", "telling", "noise")

Ints = npt.NDArray[np.int64]


class Network:
    """A generated network, with files of its edges and content."""

    def __init__(self, seed: int, folder: Path) -> None:
        rng = np.random.default_rng(seed)
        of_user, of_item = rng.integers(COMMUNITIES, size=USERS), rng.integers(COMMUNITIES, size=ITEMS)
        popularity = (1 + rng.permutation(ITEMS)) ** -0.5
        self.is_new = rng.random(ITEMS) < NEW
        pairs = set()
        for community in range(COMMUNITIES):
            users = np.flatnonzero(of_user == community)
            inside = popularity * (of_item == community)
            mixed = WITHIN * inside / inside.sum() + (1 - WITHIN) * popularity / popularity.sum()
            for user in users.tolist():
                pairs |= {(user, item) for item in rng.choice(ITEMS, EDGES_PER_USER, p=mixed).tolist()}
        edges = np.array(sorted(pairs), np.int64)
        is_test = self.is_new[edges[:, 1]] | (rng.random(len(edges)) < 0.1)
        self.train, self.test = edges[~is_test], edges[is_test]
        self._folder = folder
        for name, part in (("train", self.train), ("test", self.test)):
            columns = {"lhs": [f"u{user}" for user in part[:, 0]], "rhs": [f"i{item}" for item in part[:, 1]]}
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        centers = rng.normal(size=(COMMUNITIES, LENGTH))
        noise = rng.normal(size=(ITEMS, LENGTH))
        for kind, vectors in (("telling", centers[of_item] + NOISE * noise), ("noise", noise)):
            columns = {"id": [f"i{item}" for item in range(ITEMS)], "vector": list(vectors.astype(np.float32))}
            pq.write_table(pa.table(columns), folder / f"{kind}.parquet")

    def config(self, kind: str, seed: int, options: argparse.Namespace) -> Config:
        optimizer = {options.optimizer: {"lr": options.rate}}
        features = [{"table": "item", "path": str(self._folder / f"{kind}.parquet"), "column": "vector"}]
        tree: dict[str, Any] = {
            "prepare": {
                "sources": [
                    {"path": str(self._folder / f"{split}.parquet"), "relation": "likes", "split": split}
                    for split in ("train", "test")
                ],
                "features": [] if kind == "none" else features,
            },
            "model": {
                "embeddings": {
                    "tables": [{"name": name, "embedding_dim": 32, "optimizer": optimizer} for name in ("user", "item")]
                },
                "relations": [{"name": "likes", "lhs": "user", "rhs": "item"}],
                "translation_optimizer": {"adagrad": {"lr": 0.1}},
                "comparator": options.comparator,
                "loss": "softmax",
                "temperature": options.temperature,
            },
            "train_data": {"per_replica_batch_size": 1000, "in_batch_negatives": 0, "global_negatives": 500},
            "training": {"num_epochs": options.epochs, "seed": seed, "checkpoint_every_n": 10**6},
        }
        return config_file.validate(Config, tree, "bench_features")


def recalls(config: Config, root: str, network: Network) -> dict[str, float]:
    """recall@K of the test edges of trained and of new items, and of trained ones among trained ones alone."""
    saved = checkpoint.newest(root)
    assert saved is not None
    manifest = find_manifest(root)
    places = {
        entry.name: {name: at for at, name in enumerate(_names(config, root, entry.name, entry.num_embeddings))}
        for entry in manifest.tables
    }
    vectors = {}
    for table, count in (("user", USERS), ("item", ITEMS)):
        rows = saved.rows(table)
        found = rows.read(0, rows.size)
        whole = torch.zeros(count, rows.dim)
        for name, at in places[table].items():
            whole[int(name[1:])] = found[at]
        vectors[table] = whole
    translation = saved.stored("scorer.operator.translation").read_whole()[0]
    queries, items = vectors["user"] + translation, vectors["item"]
    if config.model.comparator == "cos":
        queries, items = (torch.nn.functional.normalize(of) for of in (queries, items))
    scores = (queries @ items.T).numpy()
    scores[network.train[:, 0], network.train[:, 1]] = -np.inf
    of_new = network.is_new[network.test[:, 1]]
    trained, new = network.test[~of_new], network.test[of_new]
    found = {"trained": _recall(scores, trained), "new": _recall(scores, new)}
    scores[:, network.is_new] = -np.inf
    return found | {"trained_alone": _recall(scores, trained)}


def _recall(scores: npt.NDArray[np.float32], edges: Ints) -> float:
    """recall@K of `edges`, averaged over users."""
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    is_best = np.zeros(scores.shape, bool)
    np.put_along_axis(is_best, best, True, axis=1)
    counts = np.bincount(edges[:, 0], minlength=USERS)
    hits = np.bincount(edges[:, 0], is_best[edges[:, 0], edges[:, 1]], minlength=USERS)
    asked = counts > 0
    return float((hits[asked] / np.minimum(counts[asked], K)).mean())


def _names(config: Config, root: str, table: str, rows: int) -> list[str]:
    names: list[str] = []
    for batch in open_ids(config, root, table, rows).batches(10**6):
        names += batch["id"].to_pylist()
    return names


def interval(values: list[float]) -> list[float]:
    """The mean and half of its 95 % interval."""
    half = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 2.0) * np.std(values, ddof=1) / len(values) ** 0.5
    return [round(float(np.mean(values)), 4), round(float(half), 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--optimizer", default="rowwise_adagrad")
    parser.add_argument("--rate", type=float, default=0.3)
    parser.add_argument("--comparator", default="dot")
    parser.add_argument("--temperature", type=float, default=1.0)
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in ("trained", "new", "trained_alone")} for kind in KINDS
    }
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            network = Network(seed, Path(folder))
            for kind in KINDS:
                config, root = network.config(kind, seed, options), f"{folder}/{kind}-run"
                prepare(config, root)
                train(config, root)
                for name, value in recalls(config, root, network).items():
                    found[kind][name].append(value)
                print(seed, kind, {name: round(of[-1], 4) for name, of in found[kind].items()}, flush=True)
    alone = {kind: of["trained_alone"] for kind, of in found.items()}
    changes = {
        f"{kind}_change": [with_ - without for with_, without in zip(alone[kind], alone["none"], strict=True)]
        for kind in ("telling", "noise")
    }
    share = [new / old for new, old in zip(found["telling"]["new"], found["telling"]["trained"], strict=True)]
    figures = {f"{kind}_{name}": of for kind, both in found.items() for name, of in both.items()}
    figures |= changes | {"new_of_trained": share}
    shown = {name: interval(of) if len(of) > 1 else of for name, of in figures.items()}
    print(json.dumps({"benchmark": "features", **vars(options), **shown}))


if __name__ == "__main__":
    main()
