"""Explicit negatives from raw rows to metrics."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.stages.test_evaluate import changed
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training import trainer

USERS, TWEETS = 60, 48
Make = Callable[..., tuple[Config, str]]


def write_rows(path: Path) -> None:
    """Users favor tweets of their topic; they dislike those of the topic beside it, and of a random one some."""
    rng, rows = random.Random(4), []
    for user, tweet in product(range(USERS), range(TWEETS)):
        near = (tweet - user) % 6
        if near == 0 and rng.random() < 0.8:
            rows.append((f"u{user}", "fav", f"t{tweet}"))
        elif near == 1 and rng.random() < 0.8:
            rows.append((f"u{user}", "dislike", f"t{tweet}"))
        elif rng.random() < 0.25:
            rows.append((f"u{user}", "fav", f"t{tweet}"))
    lhs, relation, rhs = zip(*rows, strict=True)
    pq.write_table(pa.table({"lhs": lhs, "relation": relation, "rhs": rhs}), path)


@pytest.fixture
def make(small_config: SmallConfig, tmp_path: Path) -> Make:
    write_rows(tmp_path / "raw.parquet")

    def made(name: str, share: float, **sections: Any) -> tuple[Config, str]:
        relations = [
            {"name": "fav", "lhs": "user", "rhs": "tweet", "negatives": {"relation": "dislike", "share": share}},
            {"name": "dislike", "lhs": "user", "rhs": "tweet"},
        ]
        split = {"split": {"by": "hash", "validation": 0.1, "test": 0.2}}
        training = {"num_epochs": 8} | sections.pop("training", {})
        model = {"relations": relations} | sections.pop("model", {})
        config = small_config(prepare=split, model=model, training=training, **sections)
        root = str(tmp_path / name)
        prepare(config, root)
        train(config, root)
        return config, root

    return made


def gauc_of(config: Config, root: str, split: str) -> float:
    """Pair by pair, from the files."""
    checkpoint = newest(root)
    assert checkpoint is not None
    rows = {name: checkpoint.rows(name).read(0, size).double() for name, size in (("user", USERS), ("tweet", TWEETS))}
    translation = checkpoint.scorer(config.model, config.model.relations).operator.of(0).detach().double()
    edges = Path(root, "graph/edges")
    positive, negative = (reading.rows(edges / folder) for folder in (split, f"negatives/{split}"))

    def score(edge: dict[str, int], rhs: int) -> float:
        return float((rows["user"][edge["lhs"]] + translation) @ rows["tweet"][rhs])

    shares = []
    for edge in positive:
        against = [score(edge, other["rhs"]) for other in negative if other["lhs"] == edge["lhs"]]
        if against:
            own = score(edge, edge["rhs"])
            shares.append(sum((own > other) + (own == other) / 2 for other in against) / len(against))
    assert len(shares) > 20
    return sum(shares) / len(shares)


def test_explicit_negatives_are_learned_and_measured_on_held_out_ones(make: Make) -> None:
    config, root = make("with", 0.6)
    figures = evaluate(config, root)["test"]
    assert list(figures) == ["all", "fav"]
    assert figures["fav"]["gauc"] == figures["all"]["gauc"] == pytest.approx(gauc_of(config, root, "test"), abs=1e-6)
    on_validation = evaluate(changed(config, split="validation"), root)["validation"]
    assert on_validation["fav"]["gauc"] == pytest.approx(gauc_of(config, root, "validation"), abs=1e-6)
    plain, root_of_plain = make("without", 0.0)
    without = evaluate(plain, root_of_plain)["test"]["all"]["gauc"]
    assert without + 0.02 < figures["all"]["gauc"], "explicit negatives teach something about those held out"
    pairs = [
        {(row["lhs"], row["rhs"]) for row in reading.rows(Path(root, "graph/edges", folder))}
        for folder in (f"{kind}{split}" for kind in ("", "negatives/") for split in ("train", "validation", "test"))
    ]
    assert sum(map(len, pairs)) == len(set().union(*pairs)), "no pair is in two places"


@pytest.mark.parametrize("loss", ["softmax", "bce", "ranking"])
def test_a_share_of_0_trains_as_without(make: Make, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    _, root = make("zero", 0.0, model={"loss": loss}, training={"num_epochs": 1})
    monkeypatch.setattr(trainer, "explicit_negatives", lambda *_: None)
    _, plain = make("plain", 0.5, model={"loss": loss}, training={"num_epochs": 1})
    losses = [[line.split(', "')[:3] for line in _losses(of)] for of in (root, plain)]
    assert losses[0] == losses[1]


def _losses(root: str) -> list[str]:
    lines = storage.read_text(storage.join(root, "training/metrics.jsonl")).splitlines()
    return [line for line in lines if '"loss"' in line or "validation_loss" in line]


def test_gates_name_the_figure_of_relations_that_have_it(make: Make) -> None:
    config, root = make("run", 0.3)
    passing = {f"test.{name}.gauc": {"min": 0.1} for name in ("all", "fav")}
    metrics = evaluate(changed(config, gates=passing), root)
    assert metrics["test"]["fav"]["gauc"] > 0.1
    for name in ("dislike", "favs"):
        with pytest.raises(UserError, match=rf"evaluation\.gates: test\.{name}\.gauc"):
            evaluate(changed(config, gates={f"test.{name}.gauc": {"min": 0.1}}), root)


def test_dislikes_can_be_left_out_of_answers_but_not_asked_for(make: Make) -> None:
    root = make("run", 0.3, training={"num_epochs": 1})[1]
    disliked: dict[int, set[int]] = {}
    for split in ("train", "validation", "test"):
        for row in reading.rows(Path(root, "graph/edges/negatives", split)):
            disliked.setdefault(row["lhs"], set()).add(row["rhs"])
    tweets = reading.ids(Path(root), "tweet")
    users, row = Embeddings.load(root)["user"], next(iter(disliked))
    user = reading.ids(Path(root), "user")[row]
    every, found = (
        {name for name, _ in users.neighbors(user, "fav", TWEETS, exclude=left_out)} for left_out in ((), ["dislike"])
    )
    assert every - found == {tweets[of] for of in disliked[row]}
    with pytest.raises(UserError, match="dislike has explicit negatives alone"):
        users.neighbors(user, "dislike")
