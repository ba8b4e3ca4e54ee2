"""`model.target`: the weights of the other relations, and that they belong to the run like everything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from tests.training.test_resume import local_parts
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.description import ModelDescription
from twhin_core.config import Config, Relation
from twhin_core.config import file as config_file
from twhin_core.data.edges import Edges
from twhin_core.distributed.ranks import Ranks, alone, process_group
from twhin_core.errors import UserError
from twhin_core.model.alignment import falls_along
from twhin_core.model.batch_maker import BatchMaker
from twhin_core.schema import Schema
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training import local_model
from twhin_core.training.build import build
from twhin_core.training.compared_edges import _sample, choose, number_of_target
from twhin_core.training.joined_tables import JoinedTables
from twhin_core.training.trainer import Trainer

USERS, ITEMS, COMMUNITIES = 240, 120, 6


def targeted(small_config: SmallConfig, **sections: Any) -> Config:
    training = {"num_epochs": 2, "checkpoint_every_n": 4, "train_log_every_n": 1, "eval_log_every_n": 7}
    return small_config(**{"model": {"target": "fav"}, "training": training} | sections)


def state(root: Path) -> tuple[int, dict[str, Any]]:
    newest = checkpoint.newest(str(root))
    assert newest is not None
    names = ("relation_weights", "tables.embeddings.user.weight", "tables.embeddings.tweet.weight")
    return newest.step, {name: newest.stored(name).read_whole().numpy() for name in names}


def weights(root: Path) -> dict[int, float]:
    lines = map(json.loads, (root / "training/metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["weight/follow"] for line in lines if "weight/follow" in line}


def test_a_resumed_run_has_the_weights_of_an_undisturbed_one(small_config: SmallConfig, tmp_path: Path) -> None:
    config = targeted(small_config)
    for name in ("whole", "resumed"):
        prepare(config, str(tmp_path / name))
        train(config, str(tmp_path / name))
    steps = [found.step for found in checkpoint.complete(str(tmp_path / "resumed"))]
    for found in checkpoint.complete(str(tmp_path / "resumed"))[2:]:
        checkpoint.remove(found)
    train(config, str(tmp_path / "resumed"))
    step, expected = state(tmp_path / "whole")
    assert (step, [found.step for found in checkpoint.complete(str(tmp_path / "resumed"))]) == (steps[-1], steps)
    for name, value in state(tmp_path / "resumed")[1].items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")
    assert list(weights(tmp_path / "whole")) == list(range(1, step))


def test_weights_stay_between_0_and_a_limit_and_the_target_weighs_1(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = targeted(small_config), tmp_path / "run"
    prepare(config, str(root))
    train(config, str(root))
    follow, fav = _counts(root)
    limit = 0.1 * fav / follow
    for weight in weights(root).values():
        assert 0 <= weight <= limit + 1e-4
        tenths = 10 * weight / limit
        assert abs(tenths - round(tenths)) < 0.02, "it moves by tenths of the limit"
    _, found = state(root)
    assert found["relation_weights"][1] == 1
    assert found["relation_weights"][0] == pytest.approx(list(weights(root).values())[-1], abs=1e-4)


def _counts(root: Path) -> list[int]:
    rel = np.concatenate([pq.read_table(path)["rel"].to_numpy() for path in root.glob("graph/edges/train/*.parquet")])
    return np.bincount(rel, minlength=2).tolist()


def test_the_validation_loss_is_the_targets_alone(small_config: SmallConfig, tmp_path: Path) -> None:
    """By a run that has only the target's edges to validate: the same negatives of the same single batch."""
    one_batch = {"per_replica_batch_size": 400, "global_negatives": 8, "chunk_size": 400}
    config = targeted(small_config, validation_data=one_batch, training={"num_train_steps": 1, "eval_log_every_n": 1})
    root = tmp_path / "run"
    prepare(config, str(root))
    train(config, str(root))
    lines = map(json.loads, (root / "training/metrics.jsonl").read_text().splitlines())
    (loss,) = [line["validation_loss"] for line in lines if "validation_loss" in line]
    # 1 + 8 candidates and vectors near 0: ln 9 for each edge, whatever the number of other edges beside them.
    assert loss == pytest.approx(np.log(9), rel=0.02)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"target": "like"}}, r"model\.target: no relation named 'like'; there are fav, follow"),
        (
            {"model": {"target": "fav", "relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}]}},
            r"model\.target: has no effect, there is no other relation",
        ),
    ],
)
def test_a_target_that_cannot_be_one_is_refused(
    small_config: SmallConfig, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        small_config(**sections)


def test_a_target_among_relations_that_prepare_finds_is_looked_for_in_the_graph(small_config: SmallConfig) -> None:
    model = small_config(model={"target": "like", "relations": [{"name": "*", "lhs": "user", "rhs": "user"}]}).model
    named = [Relation(name=name, lhs="user", rhs="user") for name in ("follow", "like")]
    assert number_of_target(model, Schema({"user": 1}, named)) == 1
    with pytest.raises(UserError, match=r"model\.target: no relation named 'like'; there are follow"):
        number_of_target(model, Schema({"user": 1}, named[:1]))


def test_a_target_without_validation_edges_is_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    split = {"validation": 0.1, "test": 0.1, "relations": ["follow"]}
    config = targeted(small_config, prepare={"split": split})
    prepare(config, str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"model\.target: there are no validation edges of fav"):
        train(config, str(tmp_path / "run"))


def test_a_checkpoint_of_another_target_is_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    config = targeted(small_config, training={"num_epochs": 1})
    prepare(config, str(tmp_path / "run"))
    train(config, str(tmp_path / "run"))
    found = checkpoint.newest(str(tmp_path / "run"))
    assert found is not None
    assert found.marker.model.target == "fav"
    other = ModelDescription.model_validate({**found.marker.model.model_dump(), "target": "follow"})
    with pytest.raises(UserError, match="target 'fav' there, 'follow' here"):
        found.check_fits(other)
    found.check_fits(other, weights_only=True)


def adjusted(config: Config, root: str) -> Any:
    """The weights after three adjustments and at the end, those in the state between, and what is compared."""
    with process_group() as ranks:
        trainer = Trainer(config, root, ranks)
        assert trainer.weights is not None
        twhin = trainer.model.model.module
        with trainer.model.without_pipeline():
            found = [trainer.weights.adjust(twhin, step) for step in (1, 2, 3)]
        saved, edges = local_parts(trainer)["relation_weights"][0][1], trainer.weights._edges
        trainer.run()
        found.append(trainer.weights.found(twhin))
        return found, saved, [edges.lhs, edges.rel, edges.rhs]


def test_two_ranks_find_what_one_finds(small_config: SmallConfig, tmp_path: Path) -> None:
    config = targeted(small_config)
    twice = targeted(small_config, train_data={"per_replica_batch_size": 128})  # as many steps on one rank
    prepare(config, str(tmp_path / "two"))
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    two = run_ranks(2, adjusted, config, str(tmp_path / "two"))
    one = run_ranks(1, adjusted, twice, str(tmp_path / "one"))
    assert two[0][0] == two[1][0]
    assert two[0][0][:3] == one[0][0][:3], "after training, one has seen other negatives"
    for mine, theirs in zip(two[0][2], one[0][2], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(two[0][1], one[0][1])
    np.testing.assert_array_equal(two[1][1], one[0][1])


# Whether losses fall together, against gradients by autograd.


def config_of(
    relations: list[dict[str, Any]], spherical: bool, seed: int = 0, model: dict[str, Any] | None = None
) -> tuple[Config, Schema]:
    optimizer = {"spherical_adagrad": {"lr": 1.0}} if spherical else {"sgd": {"lr": 0.1}}
    tables = {"user": USERS, "item": ITEMS}
    tree = {
        "model": {
            "embeddings": {
                "tables": [
                    {"name": name, "num_embeddings": rows, "embedding_dim": 8, "optimizer": optimizer}
                    for name, rows in tables.items()
                ]
            },
            "relations": relations,
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "loss": "softmax",
            **({} if spherical else {"init_std": 0.5}),
            **(model or {}),
        },
        "training": {"seed": seed},
        "train_data": {"data_root": "unused", "per_replica_batch_size": 100, "global_negatives": 12},
    }
    config = config_file.validate(Config, tree, "test")
    return config, Schema(tables, config.model.relations)


RELATIONS = [
    {"name": "buy", "lhs": "user", "rhs": "item", "operator": "identity"},
    {"name": "friend", "lhs": "user", "rhs": "user"},
    {"name": "view", "lhs": "user", "rhs": "item", "operator": "diagonal"},
    {"name": "like", "lhs": "item", "rhs": "item", "operator": "identity"},
]


def drawn_edges(rng: np.random.Generator, schema: Schema, count: int) -> Edges:
    rel = rng.integers(len(schema.relations), size=count)
    rel[: len(schema.relations)] = np.arange(len(schema.relations))
    lhs, rhs = (rng.integers(schema.rows[side][rel]) for side in ("lhs", "rhs"))
    return Edges(lhs, rel, rhs, rng.uniform(0.5, 2, count).astype(np.float32))


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    with process_group() as group:
        yield group


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_losses_fall_together_as_the_product_of_their_gradients_says(seed: int, spherical: bool) -> None:
    rng = np.random.default_rng(seed)
    config, schema = config_of(RELATIONS, spherical, seed)
    model, target = build(config, schema, alone()), seed % len(RELATIONS)
    twhin = model.model.module
    batch = BatchMaker(schema, config.model, config.train_data).make(
        drawn_edges(rng, schema, 300), 300, torch.Generator().manual_seed(seed)
    )
    before = {name: value.clone() for name, value in twhin.state_dict().items()}
    tables = {"user", "item"} if spherical else set()
    found = falls_along(twhin, batch, target, tables)
    assert all(torch.equal(value, before[name]) for name, value in twhin.state_dict().items())

    rows = twhin.looked_up(batch.lookups).detach().double().requires_grad_()
    twhin.double()
    gradients = []
    for rel in range(len(RELATIONS)):
        loss = twhin.losses_of_relations(batch, rows)[rel]
        gradients.append(torch.autograd.grad(loss, rows)[0])
    ahead = gradients[target]
    if spherical:
        ahead = ahead - (ahead * rows).sum(1, keepdim=True) * rows
    length = 0.01 * rows.norm() / ahead.norm()
    expected = torch.stack([2 * length * (ahead * of).sum() for of in gradients]).detach()
    assert expected[target] > 0
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.01 * float(expected[target]))


def test_losses_fall_together_alike_in_joined_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    config, schema = config_of(RELATIONS, spherical=True)
    batch = BatchMaker(schema, config.model, config.train_data).make(
        drawn_edges(np.random.default_rng(0), schema, 300), 300, torch.Generator().manual_seed(0)
    )
    found = []
    for is_joined in (False, True):
        if is_joined:  # those of a GPU, on a CPU
            monkeypatch.setattr(local_model, "LocalTables", lambda *of: JoinedTables(*of[:2], torch.device("cpu")))
        twhin = build(config, schema, alone()).model.module
        assert isinstance(twhin.tables, JoinedTables) == is_joined
        found.append(falls_along(twhin, batch, 0, {"user", "item"}))
    torch.testing.assert_close(*found)


def test_weights_found_act_as_those_of_the_config(ranks: Ranks) -> None:
    """In the loss, regularization and relation prediction, whatever the weights of the edges."""
    extra = {"regularization": {"tables": 0.1, "relations": 0.1}, "relation_prediction": 0.5}
    relations = [{"name": name, "lhs": "user", "rhs": "item"} for name in ("buy", "view", "like")]
    weights = [1.0, 0.25, 0.0625]
    given = [{**of, "weight": weight} for of, weight in zip(relations, weights, strict=True)]
    found = []
    for model in ({"relations": given}, {"relations": relations, "target": "buy"}):
        config, schema = config_of([], spherical=False, model={**model, **extra})
        trainable, rng = build(config, schema, ranks), np.random.default_rng(1)
        twhin, maker = trainable.model.module, BatchMaker(schema, config.model, config.train_data)
        if config.model.target is not None:
            twhin.relation_weights.copy_(torch.tensor(weights))
        losses = [
            trainable.step(maker.make(drawn_edges(rng, schema, 100), 100, torch.Generator().manual_seed(step)))
            for step in range(4)
        ]
        found.append([*losses, twhin.state_dict()["tables.embeddings.user.weight"]])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), parts=st.integers(1, 7))
def test_a_sample_does_not_depend_on_how_edges_are_read(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    _, schema = config_of(RELATIONS, spherical=False)
    edges, wanted = drawn_edges(rng, schema, 200), rng.integers(0, 40, len(RELATIONS))
    cuts = np.sort(rng.integers(0, 201, parts - 1))
    shuffled = edges.take(rng.permutation(200))
    chunks = [shuffled.take(slice(*span)) for span in zip([0, *cuts], [*cuts, 200], strict=True)]
    once, again = _sample([edges], wanted), _sample(chunks, wanted)
    for column in ("lhs", "rel", "rhs"):
        np.testing.assert_array_equal(getattr(once, column), getattr(again, column))
    expected = np.minimum(np.bincount(edges.rel, minlength=len(RELATIONS)), wanted)
    np.testing.assert_array_equal(np.bincount(once.rel, minlength=len(RELATIONS)), expected)


class Held:
    """Edges in memory in place of files."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges

    def chunks(self, rank: int = 0, world_size: int = 1) -> list[Edges]:
        starts = range(50 * rank, len(self.edges), 50 * world_size)
        return [self.edges.take(slice(start, start + 50)) for start in starts]


@pytest.mark.parametrize("seed", range(10))
def test_edges_compared_are_the_targets_and_those_that_share_a_node_with_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, schema = config_of(RELATIONS, spherical=False)
    train_edges, held_out, target = drawn_edges(rng, schema, 500), drawn_edges(rng, schema, 30), seed % len(RELATIONS)
    found, counts = choose(target, schema, Held(train_edges), Held(held_out), Ranks(0, 1, torch.device("cpu")))  # type: ignore[arg-type]

    def ends(edges: Edges, at: int) -> set[tuple[str, int]]:
        rel = int(edges.rel[at])
        return {(schema.table_of(rel, "lhs"), int(edges.lhs[at])), (schema.table_of(rel, "rhs"), int(edges.rhs[at]))}

    def rows(edges: Edges, kept: list[int]) -> list[tuple[int, int, int]]:
        return sorted((int(edges.rel[at]), int(edges.lhs[at]), int(edges.rhs[at])) for at in kept)

    asked = [at for at in range(30) if held_out.rel[at] == target]
    nodes = set().union(*(ends(held_out, at) for at in asked))
    near = [at for at in range(500) if train_edges.rel[at] != target and ends(train_edges, at) & nodes]
    assert rows(found, list(range(len(found)))) == sorted(rows(held_out, asked) + rows(train_edges, near))
    assert counts.tolist() == [int((train_edges.rel == rel).sum()) for rel in range(len(RELATIONS))]


# What is found in networks with communities: the target `buy`, and a second relation of each kind. Training is short,
# so that more weight on the target's own edges still helps to predict the held-out ones.


def in_communities(rng: np.random.Generator, lhs: Any, rhs: Any, count: int, within: float) -> Any:
    """Distinct pairs of nodes, a share `within` of them in equal communities. `lhs`, `rhs`: of each node."""
    left, right = rng.integers(len(lhs), size=count), rng.integers(len(rhs), size=count)
    for at in np.flatnonzero(rng.random(count) < within):
        right[at] = rng.choice(np.flatnonzero(rhs == lhs[left[at]]))
    return rng.permutation(np.unique(np.stack([left, right], 1), axis=0))


def share_of_limit(tmp_path: Path, kind: str, seed: int) -> float:
    rng = np.random.default_rng(seed)
    user, item, other = (rng.permutation(rows) % COMMUNITIES for rows in (USERS, ITEMS, USERS))
    buy = in_communities(rng, user, item, 2400, 0.85)
    held_out, kept = buy[:500], buy[500:]
    second = {
        "identical": lambda: kept,
        "same communities": lambda: in_communities(rng, user, user, 2400, 0.9),
        "other communities": lambda: in_communities(rng, other, other, 2400, 0.9),
    }[kind]()
    relations = [
        {"name": "buy", "lhs": "user", "rhs": "item", "operator": "identity"},
        {"name": "second", "lhs": "user", "rhs": "item" if kind == "identical" else "user", "operator": "identity"},
    ]
    for name, parts in (("train", (kept, second)), ("validation", (held_out, second[:0]))):
        pairs, rel = np.concatenate(parts), np.repeat([0, 1], [len(part) for part in parts])
        pq.write_table(pa.table({"lhs": pairs[:, 0], "rel": rel, "rhs": pairs[:, 1]}), tmp_path / f"{name}.parquet")
    optimizer = {"spherical_adagrad": {"lr": 1.0}}
    data = {"per_replica_batch_size": 200, "in_batch_negatives": 20, "global_negatives": 20}
    tree = {
        "model": {
            "embeddings": {
                "tables": [
                    {"name": name, "num_embeddings": rows, "embedding_dim": 8, "optimizer": optimizer}
                    for name, rows in (("user", USERS), ("item", ITEMS))
                ]
            },
            "relations": relations,
            "target": "buy",
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "loss": "softmax",
            "temperature": 0.2,
        },
        "training": {"seed": seed, "num_epochs": 2, "checkpoint_every_n": 10_000},
        "train_data": {"data_root": str(tmp_path / "train.parquet"), **data},
        "validation_data": {"data_root": str(tmp_path / "validation.parquet"), **data},
    }
    root = tmp_path / "run"
    train(config_file.validate(Config, tree, "test"), str(root))
    newest = checkpoint.newest(str(root))
    assert newest is not None
    limit = min(1, 0.1 * len(kept) / len(second))
    return float(newest.stored("relation_weights").read_whole()[1]) / limit


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "low", "high"), [("identical", 0.7, 1.0), ("same communities", 0.7, 1.0), ("other communities", 0.0, 0.3)]
)
def test_a_relation_keeps_its_weight_only_if_it_helps(
    tmp_path: Path, kind: str, low: float, high: float, seed: int
) -> None:
    assert low - 1e-6 <= share_of_limit(tmp_path, kind, seed) <= high + 1e-6
