"""A warm start: rows by table and id, optimizer state with them, relations by name, on any ranks and shardings."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ranks import run_ranks
from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.parts import local_parts
from twhin_core.distributed.ranks import process_group
from twhin_core.errors import UserError
from twhin_core.stages.train import train
from twhin_core.training import matched_rows
from twhin_core.training.earlier import EARLIER, START
from twhin_core.training.trainer import Trainer

Array = npt.NDArray[Any]
Edge = tuple[str, str, str, float]
"""lhs, relation, rhs, weight."""

FOLLOW = {"name": "follow", "lhs": "user", "rhs": "user"}
FAV = {"name": "fav", "lhs": "user", "rhs": "tweet"}
BY = {"name": "by", "lhs": "tweet", "rhs": "user"}


@dataclass
class Graph:
    """A graph that was not prepared, whose rows have ids in any order."""

    users: list[str]
    tweets: list[str]
    edges: list[Edge]
    relations: list[dict[str, Any]] = field(default_factory=lambda: [FOLLOW, FAV])

    def write(self, folder: Path) -> None:
        rows = {"user": {name: row for row, name in enumerate(self.users)}}
        rows["tweet"] = {name: row for row, name in enumerate(self.tweets)}
        for table, of in rows.items():
            (folder / table).mkdir(parents=True)
            ids = pa.table({"index": pa.array(of.values(), pa.int64()), "id": pa.array(list(of), pa.string())})
            pq.write_table(ids, folder / table / "part.parquet")
        names = [relation["name"] for relation in self.relations]
        columns: dict[str, list[Any]] = {"lhs": [], "rel": [], "rhs": [], "weight": []}
        for lhs, name, rhs, weight in self.edges:
            relation = self.relations[names.index(name)]
            columns["lhs"].append(rows[relation["lhs"]][lhs])
            columns["rel"].append(names.index(name))
            columns["rhs"].append(rows[relation["rhs"]][rhs])
            columns["weight"].append(weight)
        pq.write_table(pa.table(columns), folder / "edges.parquet")

    def config(self, folder: Path, **sections: Any) -> Config:
        table = {"embedding_dim": 8, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}, **sections.pop("table", {})}
        tables = [
            {"name": name, "num_embeddings": len(ids), "vocab": str(folder / name), **table}
            for name, ids in (("user", self.users), ("tweet", self.tweets))
        ]
        tree: dict[str, Any] = {
            "model": {
                "embeddings": {"tables": tables},
                "relations": self.relations,
                "translation_optimizer": {"adagrad": {"lr": 0.1}},
                "loss": "softmax",
                **sections.pop("model", {}),
            },
            "training": {"num_epochs": 2, **sections.pop("training", {})},
            "train_data": {
                "data_root": str(folder / "edges.parquet"), "per_replica_batch_size": 32, "global_negatives": 8,
            },
        }  # fmt: skip
        assert not sections
        return config_file.validate(Config, tree, "test")


def draw_edges(rng: np.random.Generator, users: list[str], tweets: list[str], count: int) -> list[Edge]:
    """Distinct edges between random nodes: half follow, half fav."""
    follow = {(rng.choice(users), "follow", rng.choice(users)) for _ in range(count // 2)}
    fav = {(rng.choice(users), "fav", rng.choice(tweets)) for _ in range(count - count // 2)}
    return [(str(s), r, str(t), float(rng.uniform(0.5, 2))) for s, r, t in sorted(follow | fav)]


@pytest.fixture
def days(tmp_path: Path) -> tuple[Graph, Graph]:
    """Two days: some nodes go, some are new, and the rest have other rows."""
    rng = np.random.default_rng(5)
    users, tweets = [f"u{n}" for n in range(37)], [f"t{n}" for n in range(23)]
    first = Graph(users, tweets, draw_edges(rng, users, tweets, 200))
    users = [*rng.permutation(users[4:]).tolist(), *(f"new{n}" for n in range(6))]
    tweets = rng.permutation([*tweets[2:], "t100", "t101"]).tolist()
    second = Graph(users, tweets, draw_edges(rng, users, tweets, 220), [FAV, BY, FOLLOW])
    first.write(tmp_path / "first")
    second.write(tmp_path / "second")
    return first, second


def state_parts(config: Config, root: str) -> dict[str, list[tuple[Array, int, int]]]:
    """A rank's part of what training begins with: by name, values and where they begin."""
    with process_group() as ranks:
        trainer = Trainer(config, root, ranks)
        return {
            name: [
                (part.values.detach().cpu().numpy().copy(), part.first_row, part.first_column)
                for part in local_parts(value)
            ]
            for name, value in trainer.model.state().items()
        }


def state(config: Config, root: str, ranks: int = 1) -> dict[str, Array]:
    """What training begins with, put together from all ranks."""
    found = [state_parts(config, root)] if ranks == 1 else run_ranks(ranks, state_parts, config, root)
    whole = {}
    for name in dict.fromkeys(name for of_rank in found for name in of_rank):
        parts = [part for of_rank in found for part in of_rank.get(name, [])]
        if parts[0][0].ndim == 0:
            whole[name] = parts[0][0]
            continue
        stops = [np.add((row, column), (*values.shape, 1)[:2]) for values, row, column in parts]
        shape = np.max(stops, 0)[: parts[0][0].ndim] if parts[0][0].ndim < 3 else parts[0][0].shape
        whole[name] = np.zeros(shape, parts[0][0].dtype)
        for values, row, column in parts:
            if values.ndim == 2:
                whole[name][row : row + len(values), column : column + values.shape[1]] = values
            else:
                whole[name][row : row + len(values)] = values
    return whole


def saved(root: str, name: str) -> Array:
    newest = checkpoint.newest(root)
    assert newest is not None
    return newest.stored(name).read_whole().numpy()


LOCAL = [(optimizer, "auto", 1) for optimizer in ("sgd", "adam", "adagrad", "rowwise_adagrad", "spherical_adagrad")]
SHARDED = [
    ("rowwise_adagrad", "row_wise", 2),
    ("adagrad", "column_wise", 2),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("sgd", "table_wise", 2),
            ("adagrad", "data_parallel", 2),
            ("rowwise_adagrad", "row_wise", 3),
            ("spherical_adagrad", "table_wise", 2),
        )
    ),
]


@pytest.mark.parametrize(("optimizer", "sharding", "ranks"), [*LOCAL, *SHARDED])
def test_the_same_ids_have_the_same_rows(
    optimizer: str, sharding: str, ranks: int, days: tuple[Graph, Graph], tmp_path: Path
) -> None:
    first, second = days
    table = {"optimizer": {optimizer: {"lr": 0.1}}}
    before, root = str(tmp_path / "run1"), str(tmp_path / "run2")
    train(first.config(tmp_path / "first", table=table), before)
    settings: dict[str, Any] = {"table": {**table, "sharding": sharding}}
    cold = state(second.config(tmp_path / "second", **settings), root, ranks)
    warm_start = {"from": before, "new_nodes": "random"}
    found = state(second.config(tmp_path / "second", training={"warm_start": warm_start}, **settings), root, ranks)
    assert found.keys() == cold.keys()
    for name, old, new in (("user", first.users, second.users), ("tweet", first.tweets, second.tweets)):
        weight = f"tables.embeddings.{name}.weight"
        tensors = [one for one in found if one == weight or one.startswith(f"optimizer.{weight}.")]
        assert len(tensors) == {"sgd": 1, "adam": 3}.get(optimizer, 2)
        for one in tensors:
            earlier, is_known = saved(before, one), np.isin(new, old)
            assert earlier.any()
            expected = cold[one].copy()
            expected[is_known] = earlier[[old.index(id_) for id_ in new if id_ in old]]
            assert np.array_equal(found[one], expected)
    record = storage.read_json(storage.join(root, EARLIER))[START]
    assert record["tables"] == {
        "user": {"matched": 33, "untrained": 0, "new": 6, "from_neighbors": 0, "gone": 4},
        "tweet": {"matched": 21, "untrained": 0, "new": 2, "from_neighbors": 0, "gone": 2},
    }
    assert record["relations"] == {"matched": ["fav", "follow"], "new": ["by"], "gone": []}
    # By name: fav and follow have changed places, and by starts as the identity.
    for one in ("scorer.operator.translation", "optimizer.scorer.operator.translation.sum"):
        earlier = saved(before, one)
        assert np.array_equal(found[one], np.stack([earlier[1], cold[one][1], earlier[0]]))
        assert not cold[one][1].any()
    assert found["optimizer.steps"] == saved(before, "optimizer.steps")


@pytest.mark.parametrize("to", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_from_a_sharded_run_without_its_optimizer_state(to: int, days: tuple[Graph, Graph], tmp_path: Path) -> None:
    first, second = days
    before, root = str(tmp_path / "run1"), str(tmp_path / "run2")
    half = {"table": {"data_type": "fp16", "sharding": "row_wise"}}
    run_ranks(2, train, first.config(tmp_path / "first", **half), before)
    warm_start = {"from": before, "optimizer_state": False, "new_nodes": "random"}
    config = second.config(
        tmp_path / "second", training={"warm_start": warm_start}, table={"optimizer": {"sgd": {"lr": 0.1}}}
    )
    found = state(config, root, to)
    earlier = saved(before, "tables.embeddings.user.weight")
    for row, name in enumerate(second.users):
        if name in first.users:
            vector = earlier[first.users.index(name)]
            assert np.array_equal(found["tables.embeddings.user.weight"][row], vector.astype(np.float32))
    assert found["optimizer.steps"] == 0
    assert not any(value.any() for name, value in found.items() if name.startswith("optimizer.scorer."))


def test_blocks_do_not_show(days: tuple[Graph, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = days
    before = str(tmp_path / "run1")
    train(first.config(tmp_path / "first"), before)
    config = second.config(tmp_path / "second", training={"warm_start": {"from": before, "new_nodes": "random"}})
    whole = state(config, str(tmp_path / "run2"))
    monkeypatch.setattr(matched_rows, "ROWS_AT_ONCE", 5)
    parts = state(config, str(tmp_path / "run3"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_parameters_of_every_operator_are_taken_by_name(tmp_path: Path) -> None:
    kinds = ["translation", "diagonal", "linear", "identity", "affine", "diagonal", "complex_diagonal"]
    relations = [{**FOLLOW, "name": f"r{number}", "operator": kind} for number, kind in enumerate(kinds)]
    users, tweets = [f"u{n}" for n in range(9)], ["t"]
    edges = [(users[n % 9], f"r{n % 7}", users[n % 8], 1.0) for n in range(63)]
    first = Graph(users, tweets, edges, relations)
    second = Graph(users, tweets, edges, [*relations[::-1], {**FOLLOW, "name": "late", "operator": "linear"}])
    first.write(tmp_path / "first")
    second.write(tmp_path / "second")
    before, model = str(tmp_path / "run1"), {"reciprocal": True, "translation_optimizer": {"adam": {"lr": 0.1}}}
    train(first.config(tmp_path / "first", model=model), before)
    config = second.config(tmp_path / "second", model=model, training={"warm_start": {"from": before}})
    found = state(config, str(tmp_path / "run2"))
    for side in ("operator", "inverse"):
        for key in ("", ".exp_avg", ".exp_avg_sq"):
            name = f"{'optimizer.' if key else ''}scorer.{side}.{{}}{key}"
            diagonal, linear = name.format("diagonal"), name.format("linear")
            assert np.array_equal(found[diagonal], saved(before, diagonal)[::-1])
            assert np.array_equal(found[linear][:1], saved(before, linear))
            fresh = np.zeros((8, 8)) if key else np.eye(8)
            assert np.array_equal(found[linear][1], fresh)
            assert np.array_equal(found[name.format("affine")], saved(before, name.format("affine")))
        assert found[f"optimizer.scorer.{side}.linear.step"] == saved(before, "optimizer.steps") > 0


def test_learned_weights_of_the_prior_are_taken_by_name(days: tuple[Graph, Graph], tmp_path: Path) -> None:
    first, second = days
    turned = Graph(second.users, second.tweets, second.edges, [FAV, FOLLOW])
    turned.write(tmp_path / "turned")
    before, model = str(tmp_path / "run1"), {"prior": {"weight": "learned"}}
    train(first.config(tmp_path / "first", model=model), before)
    training = {"warm_start": {"from": before}}
    found = state(turned.config(tmp_path / "turned", model=model, training=training), str(tmp_path / "run2"))
    for name in ("scorer.prior", "optimizer.scorer.prior.sum"):
        assert np.array_equal(found[name], saved(before, name)[::-1])
    assert (found["scorer.prior"] != 0.5).any()
    counted = found["degrees.count"]
    assert counted.sum() == 2 * len(turned.edges), "the degrees are those of today's edges"


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "dim": ({"table": {"embedding_dim": 12}}, ["dim 8 there, 12 here"]),
    "comparator": ({"model": {"comparator": "cos"}}, ["comparator 'dot' there, 'cos' here"]),
    "reciprocal": ({"model": {"reciprocal": True}}, ["reciprocal False there, True here"]),
    "operator": (
        {"model": {"relations": [{**FAV, "operator": "diagonal"}, FOLLOW, BY]}},
        ["relations.fav.operator 'translation' there, 'diagonal' here"],
    ),
    "sides": (
        {"model": {"relations": [FOLLOW, {**BY, "name": "late"}, {**BY, "name": "fav"}]}},
        ["relations.fav.lhs 'user' there, 'tweet' here", "relations.fav.rhs 'tweet' there, 'user' here"],
    ),
    "optimizer": (
        {"table": {"optimizer": {"sgd": {"lr": 1.0}}}},
        [f"optimizers.{table} 'rowwise_adagrad' there, 'sgd' here" for table in ("user", "tweet")],
    ),
    "relations' optimizer": (
        {"model": {"translation_optimizer": {"sgd": {"lr": 0.1}}}},
        ["translation_optimizer 'adagrad' there, 'sgd' here"],
    ),
    "several": (
        {"table": {"embedding_dim": 4}, "model": {"comparator": "l2"}},
        ["dim 8 there, 4 here", "comparator 'dot' there, 'l2' here"],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_each_difference_is_named(what: str, days: tuple[Graph, Graph], tmp_path: Path) -> None:
    first, second = days
    sections, named = REFUSED[what]
    before = str(tmp_path / "run1")
    train(first.config(tmp_path / "first"), before)
    config = second.config(tmp_path / "second", training={"warm_start": {"from": before}}, **sections)
    with pytest.raises(
        UserError, match=r"^training\.warm_start\.from: .*this checkpoint is of another model: "
    ) as error:
        train(config, str(tmp_path / "run2"))
    assert all(difference in str(error.value) for difference in named)
    assert str(error.value).count(" there, ") == len(named)


def test_a_model_without_a_table_in_common_is_refused(days: tuple[Graph, Graph], tmp_path: Path) -> None:
    first, second = days
    before = str(tmp_path / "run1")
    train(first.config(tmp_path / "first"), before)
    tree = second.config(tmp_path / "second", training={"warm_start": {"from": before}}).model_dump(mode="json")
    text = json.dumps(tree).replace('"user"', '"person"').replace('"tweet"', '"post"')
    with pytest.raises(UserError, match="tables 'user, tweet' there, 'person, post' here"):
        train(config_file.parse(text), str(tmp_path / "run2"))


@pytest.mark.parametrize("place", ["nothing", "untrained"])
def test_a_place_without_a_checkpoint_is_refused(place: str, days: tuple[Graph, Graph], tmp_path: Path) -> None:
    first, second = days
    if place == "untrained":
        train(first.config(tmp_path / "first"), str(tmp_path / place))
        shutil.rmtree(tmp_path / place / "checkpoints")
    config = second.config(tmp_path / "second", training={"warm_start": {"from": str(tmp_path / place)}})
    message = "is not a run root" if place == "nothing" else "there is no complete checkpoint at"
    with pytest.raises(UserError, match=rf"training\.warm_start\.from: .*{message}"):
        train(config, str(tmp_path / "run2"))


def test_previous_needs_prepare_to_name_it(days: tuple[Graph, Graph], tmp_path: Path) -> None:
    for training, key in (
        ({"warm_start": {"from": "previous"}}, "training.warm_start.from"),
        ({"anchor": {"to": "previous", "weight": 1.0}}, "training.anchor.to"),
    ):
        with pytest.raises(UserError, match=f"{key}: previous needs prepare.previous"):
            days[1].config(tmp_path / "second", training=training)


def test_two_ways_to_start_exclude_each_other(days: tuple[Graph, Graph], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training.initial_checkpoint_dir: has no effect with warm_start"):
        days[1].config(tmp_path / "second", training={"warm_start": {"from": "a"}, "initial_checkpoint_dir": "b"})


def test_a_run_starts_once_and_from_one_checkpoint(
    days: tuple[Graph, Graph], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = days
    before, root = str(tmp_path / "run1"), str(tmp_path / "run2")
    old = first.config(tmp_path / "first", training={"num_epochs": 20, "checkpoint_every_n": 10})
    train(old, before)
    steps = [one.step for one in checkpoint.complete(before)]
    for step in steps[3:]:  # as if the older run were still training
        shutil.move(Path(before, "checkpoints", str(step)), tmp_path / f"later{step}")
    Path(before, "training/finished.json").unlink()
    training = {"warm_start": {"from": before}, "checkpoint_every_n": 3}
    config = second.config(tmp_path / "second", training=training)
    begun = state(config, root)  # killed before its first checkpoint
    for step in steps[3:]:
        shutil.move(tmp_path / f"later{step}", Path(before, "checkpoints", str(step)))
    assert storage.read_json(storage.join(root, EARLIER))[START]["step"] == steps[2]
    again = state(config, root)
    assert all(np.array_equal(begun[name], again[name], equal_nan=True) for name in begun)
    train(config, root)
    ends = [one.step for one in checkpoint.complete(root)]
    shutil.copytree(root, tmp_path / "resumed")
    for step in ends[1:]:
        shutil.rmtree(tmp_path / "resumed/checkpoints" / str(step))
    shutil.rmtree(before)  # not needed any more
    caplog.clear()
    with caplog.at_level(logging.INFO, "twhin"):
        train(config, str(tmp_path / "resumed"))
    assert f"train: resumes from the checkpoint of step {ends[0]}" in caplog.messages
    assert not any("table user" in message for message in caplog.messages)
    assert_same_tables(root, str(tmp_path / "resumed"))


def assert_same_tables(root: str, other: str) -> None:
    for name in ("tables.embeddings.user.weight", "tables.embeddings.tweet.weight", "optimizer.steps"):
        assert np.array_equal(saved(root, name), saved(other, name))


@pytest.mark.parametrize("what", ["gone", "another"])
def test_a_checkpoint_that_was_used_before_must_still_be_there(
    what: str, days: tuple[Graph, Graph], tmp_path: Path
) -> None:
    first, second = days
    before, root = str(tmp_path / "run1"), str(tmp_path / "run2")
    train(first.config(tmp_path / "first"), before)
    config = second.config(tmp_path / "second", training={"warm_start": {"from": before}})
    state(config, root)
    newest = checkpoint.newest(before)
    assert newest is not None
    shutil.rmtree(before)
    other = {"seed": 1} if what == "another" else {"num_train_steps": newest.step - 1}
    train(first.config(tmp_path / "first", training=other), before)
    message = (
        "is another one than this run has used"
        if what == "another"
        else f"no complete checkpoint of step {newest.step}"
    )
    with pytest.raises(UserError, match=message):
        state(config, root)


def test_another_place_is_used_if_the_config_names_it(days: tuple[Graph, Graph], tmp_path: Path) -> None:
    first, second = days
    for name, seed in (("run0", 0), ("run1", 1)):
        train(first.config(tmp_path / "first", training={"seed": seed}), str(tmp_path / name))
    root = str(tmp_path / "run2")
    for name in ("run0", "run1"):
        config = second.config(tmp_path / "second", training={"warm_start": {"from": str(tmp_path / name)}})
        found = state(config, root)["tables.embeddings.user.weight"]
        known = second.users.index("u20")
        assert np.array_equal(found[known], saved(str(tmp_path / name), "tables.embeddings.user.weight")[20])
    assert storage.read_json(storage.join(root, EARLIER))[START]["root"] == str(tmp_path / "run1")
