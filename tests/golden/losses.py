"""Losses of small fixed runs, to compare with; `make goldens` renews them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import write_raw
from tests.golden import FOLDER
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

GOLDEN = FOLDER / "losses.json"

# Each takes another way through the model: losses, comparators, negatives, optimizers, schedules.
RUNS: dict[str, dict[str, Any]] = {
    "softmax": {
        "optimizer": {"rowwise_adagrad": {"lr": 0.1}},
        "model": {"loss": "softmax", "comparator": "dot", "reciprocal": True},
        "train_data": {"global_negatives": 8, "in_batch_negatives": 4},
    },
    "cosine": {
        "optimizer": {
            "adagrad": {"lr": 0.05},
            "learning_rate": {"linear_ramp_to_constant": {"learning_rate": 0.05, "num_ramp_steps": 6}},
        },
        "model": {"loss": "softmax", "comparator": "cos", "temperature": 0.2},
        "train_data": {"global_negatives": 8},
    },
    "bce": {
        "optimizer": {"adam": {"lr": 0.02}},
        "model": {"loss": "bce", "comparator": "dot"},
        "train_data": {"in_batch_negatives": 8},
    },
}


def measured() -> dict[str, list[float]]:
    """The loss of every step of each run, trained now."""
    with tempfile.TemporaryDirectory() as folder:
        write_raw(Path(folder) / "raw.parquet")
        return {name: _losses(_config(Path(folder), **run), f"{folder}/{name}") for name, run in RUNS.items()}


def _config(folder: Path, optimizer: dict[str, Any], model: dict[str, Any], train_data: dict[str, Any]) -> Config:
    table = {"embedding_dim": 8, "optimizer": optimizer}
    tree = {
        "prepare": {
            "sources": [{"path": str(folder / "raw.parquet"), "relation_column": "relation"}],
            "split": {"validation": 0.1, "test": 0.1},
            "memory_limit": "512MB",
        },
        "model": {
            "embeddings": {"tables": [{"name": "user", **table}, {"name": "tweet", **table}]},
            "relations": [
                {"name": "follow", "lhs": "user", "rhs": "user"},
                {"name": "fav", "lhs": "user", "rhs": "tweet"},
            ],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "init_std": 0.3,
            **model,
        },
        "training": {"num_epochs": 2, "train_log_every_n": 1, "seed": 1},
        "train_data": {"per_replica_batch_size": 64, "chunk_size": 32, **train_data},
    }
    return config_file.validate(Config, tree, "golden run")


def _losses(config: Config, root: str) -> list[float]:
    prepare(config, root)
    train(config, root)
    lines = map(json.loads, (Path(root) / "training/metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def renew() -> None:
    """Writes the losses as they are now."""
    rounded = {name: [float(f"{loss:.7g}") for loss in losses] for name, losses in measured().items()}
    GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
