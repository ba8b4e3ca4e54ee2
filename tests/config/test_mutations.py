"""The campaign of mutated configs: each is refused in one line, or runs to its end. docs/operations.md has figures.

TWHIN_MUTATIONS, TWHIN_MUTATIONS_SEED and TWHIN_MUTATIONS_S set how many are drawn, from which seed and in what time.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

import twhin_core.export.write
import twhin_core.training.trainer  # noqa: F401 -- so that each child need not import torch
from tests.config.mutations import Outcome, draw, outcome, parsed
from twhin_core.config import file as config_file
from twhin_core.progress import log

COUNT = int(os.environ.get("TWHIN_MUTATIONS", "150"))
SEED = int(os.environ.get("TWHIN_MUTATIONS_SEED", "0"))
SECONDS = float(os.environ.get("TWHIN_MUTATIONS_S", "120"))


def write_data(folder: Path) -> None:
    """A graph of 300 users and 60 tweets with weights and times; large enough for an ivf_pq index of users."""
    rng = Random(1)
    lines = ["lhs,relation,rhs,weight,time"]
    for user in range(300):
        for _ in range(3):
            lines.append(f"u{user},fav,t{rng.randrange(60)},{rng.uniform(0.5, 2):.2f},{rng.randrange(10**6)}")
            lines.append(f"u{user},follow,u{rng.randrange(300)},{rng.uniform(0.5, 2):.2f},{rng.randrange(10**6)}")
    (folder / "raw.csv").write_text("\n".join(lines) + "\n")


def base(folder: Path) -> dict[str, Any]:
    """A config that sets every kind of number."""
    rowwise = {"rowwise_adagrad": {"lr": 0.1, "eps": 1e-8}}
    cosine = {"learning_rate": 0.1, "final_learning_rate": 0.01, "num_ramp_steps": 2, "final_num_steps": 5}
    source = {"path": f"{folder}/raw.csv", "relation_column": "relation", "weight": "weight", "timestamp": "time"}
    return {
        "runtime": {"enable_amp": False},
        "prepare": {
            "sources": [source],
            "time_window": {"start": 0, "end": 10**7},
            "split": {"by": "hash", "validation": 0.1, "test": 0.1, "seed": 0},
            "sampling": {"fav": 0.9},
            "min_degree": {"user": 1},
            "min_degree_rounds": 2,
            "derive": {"near": {"relation": "fav", "side": "rhs", "top": 3, "min_shared": 1, "max_degree": 50}},
            "memory_limit": "512MB",
        },
        "model": {
            "embeddings": {
                "tables": [
                    {"name": "user", "num_embeddings": 300, "embedding_dim": 8, "optimizer": rowwise},
                    {
                        "name": "tweet",
                        "embedding_dim": 8,
                        "optimizer": {"adam": {"lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-8}},
                    },
                ]
            },
            "relations": [
                {"name": "follow", "lhs": "user", "rhs": "user", "weight": 1.0},
                {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": "diagonal", "weight": 0.5},
                {"name": "near", "lhs": "tweet", "rhs": "tweet", "weight": 0.1},
            ],
            "translation_optimizer": {
                "adagrad": {"lr": 0.1, "eps": 1e-8},
                "learning_rate": {"linear_ramp_to_cosine": cosine},
            },
            "loss": "softmax",
            "temperature": 0.5,
            "margin": 0.1,
            "init_std": 0.01,
            "regularization": {"tables": 0.001, "relations": 0.001, "power": 2},
            "relation_prediction": 0.0,
        },
        "training": {
            "num_train_steps": 6,
            "num_epochs": 2,
            "checkpoint_every_n": 3,
            "checkpoint_max_to_keep": 2,
            "train_log_every_n": 2,
            "num_eval_steps": 2,
            "eval_log_every_n": 3,
            "eval_timeout_in_s": 100,
            "readers_timeout_in_s": 100,
            "early_stopping": {"patience": 3},
            "gradient_accumulation": 1,
            "seed": 0,
        },
        "train_data": {
            "limit": 1000,
            "offset": 0,
            "per_replica_batch_size": 256,
            "in_batch_negatives": 4,
            "global_negatives": 20,
            "global_negatives_power": 0.5,
            "logq_correction": True,
            "chunk_size": 64,
            "shuffle_buffer": 10000,
        },
        "validation_data": {"per_replica_batch_size": 64, "global_negatives": 8, "limit": 100, "offset": 0},
        "test_data": {"limit": 60, "offset": 0},
        "evaluation": {
            "hits_at": [1, 10],
            "recall_at": [10],
            "memory_limit": "512MB",
            "candidates": 50,
            "candidates_power": 0.5,
            "degree_buckets": [1, 10],
            "bootstrap": 20,
            "seed": 0,
            "gates": {"test.all.sampled_mrr": {"min": 0.0, "max": 1.0}},
        },
        "export": {
            "formats": ["parquet", "faiss", "pq", "vertex-vector-search", "tensorboard-projector"],
            "rows_per_file": 1000,
            "faiss": {
                "kind": "hnsw",
                "tables": {"user": "ivf_pq"},
                "hnsw": {"links": 4, "ef_construction": 10, "ef_search": 10},
                "ivf_pq": {"lists": 4, "probes": 2, "subspaces": 2},
            },
            "pq": {"subspaces": 2, "bits": 4},
            "projector": {"rows": 100},
        },
    }


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The base, whose data are there."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return base(tmp_path)


@pytest.mark.slow
def test_reading_a_config_accepts_it_or_refuses_it_in_one_line(tree: dict[str, Any]) -> None:
    rng, counts, faults, until = Random(SEED), Counter[str](), [], time.monotonic() + SECONDS
    while counts.total() < COUNT * 10 and time.monotonic() < until:
        mutation = draw(tree, rng)
        found = parsed(mutation.text)
        kind = found.kind if isinstance(found, Outcome) else "accepted"
        counts[kind] += 1
        if isinstance(found, Outcome) and found.is_fault:
            faults.append(f"{mutation.what}: {kind}: {found.detail}")
    log.info("%s", dict(counts))
    assert not faults, "\n\n".join(faults)
    assert counts["accepted"] > 0
    assert counts["refused"] > 0


@pytest.mark.slow
def test_an_accepted_config_runs_to_its_end_or_is_refused_in_one_line(tree: dict[str, Any], tmp_path: Path) -> None:
    config = config_file.parse(config_file.to_yaml(config_file.validate(config_file.Config, tree, "base")))
    again = outcome(config_file.to_yaml(config).replace("seed: 0", "seed: 1"), config, tmp_path / "again")
    assert again.kind == "ran", again
    rng, counts, faults, until = Random(SEED), Counter[str](), [], time.monotonic() + SECONDS
    while counts.total() < COUNT and time.monotonic() < until:
        mutation = draw(tree, rng)
        found = outcome(mutation.text, config, tmp_path / "run")
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        counts[found.kind] += 1
        if found.is_fault:
            faults.append(f"{mutation.what}: {found.kind}: {found.detail}")
    log.info("%s", dict(counts))
    assert not faults, "\n\n".join(faults)
    assert counts["ran"] > 0
    assert counts["refused"] > 0
