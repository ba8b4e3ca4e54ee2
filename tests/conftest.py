"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import settings

from twhin_core.config import Config
from twhin_core.config import file as config_file

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: so its kernels run on a CPU

# Drawn inputs are the same in every run, so that a change is judged by what it changed. `make fuzz` draws others.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile("fixed")

SmallConfig = Callable[..., Config]


@pytest.fixture
def small_config(tmp_path: Path) -> SmallConfig:
    """`small_config(**sections)`: a config of a tiny graph, whose raw file it writes under `tmp_path`.

    Tables user and tweet, relations follow (user → user) and fav (user → tweet), 600 distinct edges among 40 users
    and 30 tweets, split at random into about 480, 60 and 60. Each keyword is a section that is merged into the default
    one, key by key; a list replaces the whole list and None the whole section:
    `small_config(training={"num_epochs": 2}, prepare={"split": None})`.
    """
    return small_configs(tmp_path)


def small_configs(folder: Path) -> SmallConfig:
    """As the fixture `small_config`, with the raw file in `folder`."""

    def build(**sections: Any) -> Config:
        raw = folder / "raw.parquet"
        if not raw.exists():
            write_raw(raw)
        rowwise = {"rowwise_adagrad": {"lr": 0.1}}
        tree = {
            "prepare": {
                "sources": [{"path": str(raw), "relation_column": "relation"}],
                "split": {"validation": 0.1, "test": 0.1},
                "memory_limit": "512MB",
            },
            "model": {
                "embeddings": {
                    "tables": [
                        {"name": "user", "embedding_dim": 8, "optimizer": rowwise},
                        {"name": "tweet", "embedding_dim": 8, "optimizer": rowwise},
                    ]
                },
                "relations": [
                    {"name": "follow", "lhs": "user", "rhs": "user"},
                    {"name": "fav", "lhs": "user", "rhs": "tweet"},
                ],
                "translation_optimizer": {"adagrad": {"lr": 0.1}},
                "loss": "softmax",
            },
            "training": {"num_epochs": 2, "checkpoint_every_n": 5, "train_log_every_n": 1},
            "train_data": {"per_replica_batch_size": 64, "global_negatives": 8, "chunk_size": 32},
        }
        return config_file.validate(Config, _merged(tree, sections), "small_config")

    return build


@pytest.fixture(scope="session")
def trained_once() -> dict[str, tuple[Config, str]]:
    """What `trained` copies from."""
    return {}


@pytest.fixture
def trained(
    trained_once: dict[str, tuple[Config, str]], small_config: SmallConfig, tmp_path: Path
) -> tuple[Config, str]:
    """The config and run root of a prepared and trained run on the tiny graph; each test has a copy of its own."""
    from twhin_core.stages.prepare import prepare
    from twhin_core.stages.train import train

    if not trained_once:
        config, root = small_config(), str(tmp_path / "trained-once")
        prepare(config, root)
        train(config, root)
        trained_once["small"] = config, root
    config, root = trained_once["small"]
    return config, str(shutil.copytree(root, tmp_path / "run"))


def write_raw(path: Path, users: int = 40, tweets: int = 30, edges: int = 600) -> None:
    """A Parquet file of distinct random edges with columns lhs, relation, rhs: half follow, half fav."""
    rng = np.random.default_rng(7)
    follow = rng.choice(users * (users - 1), edges // 2, replace=False)
    follower, followed = follow // (users - 1), follow % (users - 1)
    followed += followed >= follower  # nobody follows themselves
    fav = rng.choice(users * tweets, edges - edges // 2, replace=False)
    lhs = [f"u{user}" for user in [*follower, *(fav // tweets)]]
    rhs = [*(f"u{user}" for user in followed), *(f"t{tweet}" for tweet in fav % tweets)]
    relation = ["follow"] * len(follow) + ["fav"] * len(fav)
    pq.write_table(pa.table({"lhs": lhs, "relation": relation, "rhs": rhs}), path)


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(tree.get(key), dict)
        merged[key] = _merged(tree[key], value) if both else value
    return merged
