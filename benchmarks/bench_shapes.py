"""How near the settings of docs/tuning.md for users and items come to the best, on generated graphs of many shapes.

    python -m benchmarks.bench_shapes [--shapes even long-users small sparse relations-5 relations-500] [--epochs 25]

Users and items belong to communities, and most edges of a relation lead from each community to one other, which the
relation decides. Shapes:

    even           all users are about equally active
    long-users     one user in twenty has half of all edges
    small          few nodes with many edges each
    sparse         many nodes with few edges each
    relations-5    the same edges, in 5 relations of unequal size
    relations-500  in 500 relations

The settings are those of docs/tuning.md; graphs with several relations have translations and `reciprocal`, as it says.
They are compared with a third and three times the learning rate, in batches of 4,000 and 1,000 edges, and with a
quarter of the dimensions. Prints the recall@20 of held-out edges. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.communities import Ints, lead_within
from benchmarks.quality import ours
from benchmarks.quality.graph import Graph, measure
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.prepare import prepare

RECOMMENDED = (64, 4000, 3.0)
"""Dimensions, batch size and learning rate."""
SETTINGS = [(*size, rate) for size in ((64, 4000), (64, 1000), (16, 4000)) for rate in (1.0, 3.0, 9.0)]
SHARE_WITHIN, SHARE_HELD_OUT, POPULARITY = 0.8, 0.1, -0.7


@dataclass(frozen=True)
class Shape:
    users: int = 2000
    items: int = 2000
    communities: int = 20
    edges: int = 60_000
    relations: int = 1
    share_of_long: float = 0.0
    """Of the edges, those of one user in twenty."""


SHAPES = {
    "even": Shape(),
    "long-users": Shape(share_of_long=0.5),
    "small": Shape(users=300, items=300, communities=6, edges=20_000),
    "sparse": Shape(users=10_000, items=10_000),
    "relations-5": Shape(relations=5),
    "relations-500": Shape(relations=500),
}


def generate(shape: Shape, folder: Path) -> None:
    """Writes train.parquet and test.parquet with distinct edges, in columns user, item and relation."""
    rng = np.random.default_rng(0)
    user = rng.integers(shape.users, size=shape.edges)
    is_long = rng.random(shape.edges) < shape.share_of_long
    user[is_long] %= max(shape.users // 20, 1)
    sizes = (1.0 + np.arange(shape.relations)) ** POPULARITY
    relation = rng.choice(shape.relations, shape.edges, p=sizes / sizes.sum())
    item = _items(shape, user, relation, rng)
    edges = np.unique(np.stack([relation, user, item], 1), axis=0)
    is_test = rng.random(len(edges)) < SHARE_HELD_OUT
    for name, kept in (("train", ~is_test), ("test", is_test)):
        columns = dict(zip(("relation", "user", "item"), edges[kept].T.astype(str), strict=True))
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def _items(shape: Shape, user: Ints, relation: Ints, rng: np.random.Generator) -> Ints:
    """The item of each edge: of the community that the relation leads to from the user's, or of any."""
    share = (1.0 + rng.permutation(shape.items)) ** POPULARITY
    item = rng.choice(shape.items, shape.edges, p=share / share.sum())
    leads_to = np.stack([rng.permutation(shape.communities) for _ in range(shape.relations)])
    of_item, goal = np.arange(shape.items) % shape.communities, leads_to[relation, user % shape.communities]
    is_within = rng.random(shape.edges) < SHARE_WITHIN
    lead_within(item, is_within, goal, of_item, share, rng)
    return item


def configured(shape: Shape, folder: Path, setting: tuple[int, int, float], epochs: int) -> Config:
    """The config of docs/tuning.md for users and items, with other dimensions, batch size and learning rate."""
    dim, batch, rate = setting
    falling = {"linear_ramp_to_cosine": {"learning_rate": rate, "final_learning_rate": 0.0, "num_ramp_steps": 1}}
    optimizer = {"spherical_adagrad": {"lr": rate}, "learning_rate": falling}
    several = shape.relations > 1
    columns = {"lhs": "user", "rhs": "item", "relation_column": "relation"}
    tree: dict[str, Any] = {
        "prepare": {
            "sources": [
                {"path": str(folder / f"{split}.parquet"), **columns, "split": split} for split in ("train", "test")
            ]
        },
        "model": {
            "embeddings": {
                "tables": [{"name": name, "embedding_dim": dim, "optimizer": optimizer} for name in ("user", "item")]
            },
            "relations": [
                {"name": "*", "lhs": "user", "rhs": "item", "operator": "translation" if several else "identity"}
            ],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "loss": "softmax",
            "temperature": 0.12,
            "reciprocal": several,
        },
        "training": {"num_epochs": epochs},
        "train_data": {
            "per_replica_batch_size": batch,
            "in_batch_negatives": 250,
            "global_negatives": 250,
            "logq_correction": True,
        },
    }
    return config_file.validate(Config, tree, "bench_shapes")


def recalls(shape: Shape, folder: Path, epochs: int) -> dict[tuple[int, int, float], float]:
    """The recall@20 at the end, by setting."""
    root = str(folder / "run")
    config = configured(shape, folder, RECOMMENDED, epochs)
    prepare(config, root)  # once: the graph does not depend on the settings
    graph = Graph.read(config, root)
    quality = measure(graph, "recall@20")
    found = {}
    for setting in SETTINGS:
        config = configured(shape, folder, setting, epochs)
        ((_, _, scores),) = ours.train(config, root, graph, every=float(epochs))
        found[setting] = round(quality(scores), 4)
        print(f"  d={setting[0]}, batches of {setting[1]:,}, rate {setting[2]:g}: {found[setting]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shares = {}
    for name in options.shapes:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            generate(SHAPES[name], Path(folder))
            found = recalls(SHAPES[name], Path(folder), options.epochs)
        of_size = {setting: recall for setting, recall in found.items() if setting[0] == RECOMMENDED[0]}
        shares[name] = round(found[RECOMMENDED] / max(of_size.values()), 3)
        print(f"  recommended: {shares[name]:.1%} of the best with as many dimensions", flush=True)
    print(json.dumps({"benchmark": "shapes", "metric": "recall@20", "share_of_best": shares}))


if __name__ == "__main__":
    main()
