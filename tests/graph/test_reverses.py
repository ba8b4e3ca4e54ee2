"""Undirected relations: reverses in another split are counted and said, and `symmetric` keeps pairs together."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import twhin
from tests.export.exporting import changed
from tests.graph import reading
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


def friendships(folder: Path, symmetric: bool) -> Config:
    """80 users with 400 random friendships, each listed in both directions, of which nothing can be learned."""
    pairs = random.Random(5).sample(list(itertools.combinations(range(80), 2)), 400)
    raw = folder / "friends.csv"
    if not raw.exists():  # a run refuses files that were written again
        raw.write_text("a,b\n" + "".join(f"{a},{b}\n{b},{a}\n" for a, b in pairs))
    tree: dict[str, Any] = {
        "prepare": {
            "sources": [{"path": str(raw), "lhs": "a", "rhs": "b", "relation": "friend"}],
            "split": {"validation": 0.0, "test": 0.1},
        },
        "model": {
            "embeddings": {
                "tables": [{"name": "user", "embedding_dim": 32, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}}]
            },
            "relations": [{"name": "friend", "lhs": "user", "rhs": "user", "symmetric": symmetric}],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "comparator": "cos",
            "loss": "softmax",
            "temperature": 0.12,
        },
        "training": {"num_epochs": 60},
        "train_data": {"per_replica_batch_size": 100, "global_negatives": 40, "self_negatives": True},
        "evaluation": {"bootstrap": 20},
    }
    return config_file.validate(Config, tree, "test")


@pytest.fixture
def roots(tmp_path: Path) -> dict[bool, Path]:
    found = {symmetric: tmp_path / f"symmetric-{symmetric}" for symmetric in (False, True)}
    for symmetric, root in found.items():
        prepare(friendships(tmp_path, symmetric), str(root))
    return found


def test_reverses_in_train_are_said_with_what_to_write(
    tmp_path: Path, roots: dict[bool, Path], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = prepare(friendships(tmp_path, symmetric=False), str(tmp_path / "again"))
    train_edges, test_edges = (set(reading.edges(tmp_path / "again", manifest, split)) for split in ("train", "test"))
    leaked = sum((rhs, rel, lhs) in train_edges for lhs, rel, rhs in test_edges)
    assert leaked > 0.8 * len(test_edges)
    line = f"{leaked} of {len(test_edges)} test edges of friend have their reverse in train"
    assert line in caplog.text
    described = twhin("describe", tmp_path / "again").stderr
    assert line in described
    assert "symmetric: true" in described
    assert "reverse" not in twhin("describe", roots[True]).stderr


@pytest.mark.parametrize("seed", range(3))
def test_reverses_are_counted_in_the_order_of_the_splits(tmp_path: Path, seed: int) -> None:
    split = {"validation": 0.2, "test": 0.2, "seed": seed}
    manifest = prepare(changed(friendships(tmp_path, symmetric=False), "prepare", split=split), str(tmp_path / "run"))
    assert list(manifest.relations[0].reversed) == ["validation", "test"], "the manifest is the same bytes every time"


def test_a_symmetric_pair_is_in_one_split_in_both_directions(tmp_path: Path, roots: dict[bool, Path]) -> None:
    manifest = prepare(friendships(tmp_path, symmetric=True), str(roots[True]))
    assert manifest.rejected.by_reason == {"duplicate": 400}
    splits = {split: set(reading.edges(roots[True], manifest, split)) for split in ("train", "test")}
    for edges in splits.values():
        assert {(rhs, rel, lhs) for lhs, rel, rhs in edges} == edges
    assert not splits["train"] & splits["test"]
    assert len(splits["train"] | splits["test"]) == 800


def test_random_friendships_rank_at_chance_only_if_symmetric(tmp_path: Path, roots: dict[bool, Path]) -> None:
    mrr, chance = {}, {}
    for symmetric, root in roots.items():
        config = friendships(tmp_path, symmetric)
        train(config, str(root))
        metrics = evaluate(config, str(root))
        mrr[symmetric] = metrics["test"]["all"]["mrr"]
        chance[symmetric] = metrics["baselines"]["random"]["all"]["mrr"]
    assert mrr[False] > 1.5 * chance[False]  # the answer is a neighbor in train, only the other way around
    assert mrr[True] < 1.5 * chance[True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.relations.1.symmetric=true", "relations.1.symmetric: needs both ends in one table, not user and tweet"),
        ("prepare=null", "model.relations.0.symmetric: has no effect without a prepare section"),
    ],
)
def test_symmetry_needs_one_table_and_prepare(change: str, message: str) -> None:
    table = "num_embeddings: 9, embedding_dim: 4, optimizer: {sgd: {lr: 0.1}}"
    text = f"""
prepare: {{sources: [{{path: raw.csv, relation: friend}}]}}
model:
  embeddings: {{tables: [{{name: user, {table}}}, {{name: tweet, {table}}}]}}
  relations: [{{name: friend, lhs: user, rhs: user, symmetric: true}}, {{name: fav, lhs: user, rhs: tweet}}]
  translation_optimizer: {{sgd: {{lr: 0.1}}}}
train_data: {{data_root: edges, per_replica_batch_size: 9, global_negatives: 1}}
"""
    config_file.parse(text)
    with pytest.raises(UserError) as refused:
        config_file.parse(text, overrides=[change])
    assert message in str(refused.value)
