"""Makes the run that `benchmarks.bench_serve` serves: users who fav items of communities, and an index of items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

ITEMS_PER_USER, ITEMS_PER_COMMUNITY, OWN = 10, 1000, 0.9
FAVS = 40
"""Mean edges of a user, of which the share `OWN` lead to items of its own community."""


def make_run(folder: Path, items: int, dim: int, kind: str) -> str:
    """Prepares, trains for an epoch, and exports; returns the run root. Stages that are finished there are kept."""
    raw, root = folder / "edges.parquet", folder / "run"
    if not raw.exists():
        pq.write_table(_edges(items), raw)
    table = {"embedding_dim": dim, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}}
    batch = min(4000, max(100, items // 100))
    tree = {
        "prepare": {"sources": [{"path": str(raw), "relation": "fav"}], "split": None},
        "model": {
            "embeddings": {"tables": [{"name": name, **table} for name in ("user", "item")]},
            "relations": [{"name": "fav", "lhs": "user", "rhs": "item"}],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "loss": "softmax",
        },
        "training": {"num_epochs": 1, "train_log_every_n": 100},
        "export": {"formats": ["parquet", "faiss"], "faiss": {"kind": kind, "tables": {"user": "flat"}}},
        "train_data": {"per_replica_batch_size": batch, "in_batch_negatives": 50, "global_negatives": 50},
    }
    config = config_file.validate(Config, tree, "bench_serve")
    for stage in (prepare, train, export):
        stage(config, str(root))
    return str(root)


def _edges(items: int) -> pa.Table:
    rng = np.random.default_rng(0)
    users = items // ITEMS_PER_USER
    communities = max(1, items // ITEMS_PER_COMMUNITY)
    user = np.repeat(np.arange(users), FAVS)
    own = user % communities + communities * rng.integers(items // communities, size=len(user))
    item = np.where(rng.random(len(user)) < OWN, own, rng.integers(items, size=len(user)))
    every = np.arange(items)  # once, so that all items have a vector
    lhs = np.concatenate([user, every % communities % users])
    return pa.table({"lhs": lhs, "rhs": np.concatenate([item, every])})
