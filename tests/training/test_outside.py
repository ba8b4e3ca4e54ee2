"""Vectors from outside: rows start at them by original id, on any ranks, and frozen ones stay so, bit by bit."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fault_proxy import FaultProxy
from tests.object_store import reach, serve_bucket
from tests.ranks import run_ranks
from tests.training.test_warm_start import FAV, FOLLOW, Array, Graph, draw_edges, saved, state
from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import Damaged, UserError
from twhin_core.stages.train import train
from twhin_core.stages.verify import verify
from twhin_core.training.outside_record import RECORD
from twhin_core.vectors import outside
from twhin_core.vectors.outside import random_map

USER, TWEET = "tables.embeddings.user.weight", "tables.embeddings.tweet.weight"
DIM = 8


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """29 users and 17 tweets, whose rows have ids in any order."""
    rng = np.random.default_rng(3)
    users = rng.permutation([f"u{n}" for n in range(29)]).tolist()
    tweets = rng.permutation([f"t{n}" for n in range(17)]).tolist()
    made = Graph(users, tweets, draw_edges(rng, users, tweets, 160))
    made.write(tmp_path / "graph")
    return made


def write_vectors(path: Path, vectors: dict[str, Any], kind: pa.DataType | None = None) -> str:
    """A file of ids and vectors in this order, in row groups of 5."""
    width = len(next(iter(vectors.values())))
    kind = kind or pa.list_(pa.float32(), width)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": list(vectors), "v": pa.array([np.asarray(v).tolist() for v in vectors.values()], kind)})
    pq.write_table(table, path, row_group_size=5)
    return str(path)


def draw_vectors(names: list[str], width: int = DIM, seed: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=width).astype(np.float32) for name in names}


def with_initial(graph: Graph, folder: Path, path: str, table: str = "tweet", **options: Any) -> Config:
    """A config whose `table` starts at the vectors of `path`; `options`: of `initial` and, by their names, sections."""
    sections = {name: options.pop(name) for name in ("table_", "model", "training") if name in options}
    tree = graph.config(folder / "graph", table=sections.pop("table_", {}), **sections).model_dump(exclude_none=True)
    own = next(of for of in tree["model"]["embeddings"]["tables"] if of["name"] == table)
    own["initial"] = {"path": path, "column": "v", **options}
    return config_file.validate(Config, tree, "test")


def unit(rows: Array) -> Array:
    made: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


def test_rows_start_at_the_vectors_of_their_ids(graph: Graph, tmp_path: Path) -> None:
    given_to = [*graph.tweets[3:12], "unknown", "t1000"]
    vectors = draw_vectors(given_to[::-1])
    path = write_vectors(tmp_path / "v.parquet", vectors)
    usual = state(graph.config(tmp_path / "graph"), str(tmp_path / "usual"))
    found = state(with_initial(graph, tmp_path, path), str(tmp_path / "run"))
    expected = usual[TWEET].copy()
    for row, name in enumerate(graph.tweets):
        expected[row] = vectors.get(name, expected[row])
    assert (expected != usual[TWEET]).any(1).sum() == 9
    assert np.array_equal(found[TWEET], expected)
    assert all(np.array_equal(found[name], usual[name]) for name in usual if name != TWEET)
    record = storage.read_json(str(tmp_path / "run" / RECORD))["tweet"]
    counts = {name: record[name] for name in ("matched", "without_vector", "without_node", "width", "frozen")}
    assert counts == {"matched": 9, "without_vector": 8, "without_node": 2, "width": DIM, "frozen": False}


UUIDS = [uuid.UUID(int=3**n) for n in range(60, 77)]
BINARY = pa.array([of.bytes for of in UUIDS], pa.binary(16))
IDS: dict[str, tuple[list[str], pa.Array]] = {
    "strings": ([f"t{n}" for n in range(17)], pa.array([f"t{n}" for n in range(17)])),
    "long strings": ([f"t{n}" for n in range(17)], pa.array([f"t{n}" for n in range(17)], pa.large_string())),
    "dictionary": ([f"t{n}" for n in range(17)], pa.array([f"t{n}" for n in range(17)]).dictionary_encode()),
    "integers": ([str(n - 5) for n in range(17)], pa.array(range(-5, 12), pa.int32())),
    "binary UUIDs": ([str(of) for of in UUIDS], BINARY),
    "UUIDs": ([str(of) for of in UUIDS], pa.ExtensionArray.from_storage(pa.uuid(), BINARY)),
}
KINDS = {
    "list": pa.list_(pa.float32()),
    "long list": pa.large_list(pa.float64()),
    "fixed": pa.list_(pa.float32(), DIM),
    "fixed doubles": pa.list_(pa.float64(), DIM),
}


@pytest.mark.parametrize(
    ("ids", "kind"), [*((ids, "list") for ids in IDS), *(("strings", kind) for kind in list(KINDS)[1:])]
)
def test_ids_and_vectors_of_any_type(ids: str, kind: str, tmp_path: Path) -> None:
    names, column = IDS[ids]
    graph = Graph(["u0", "u1"], names, [("u0", "fav", name, 1.0) for name in names] + [("u0", "follow", "u1", 1.0)])
    graph.write(tmp_path / "graph")
    vectors = np.stack(list(draw_vectors(names).values()))
    for number, rows in enumerate((slice(0, 9), slice(9, 17))):  # two files, in folders of partitions
        place = tmp_path / f"vectors/day={number}/part.parquet"
        place.parent.mkdir(parents=True)
        listed = pa.array(vectors[rows].tolist(), KINDS[kind])
        pq.write_table(pa.table({"name": column[rows], "v": listed}), place)
    config = with_initial(graph, tmp_path, str(tmp_path / "vectors"), id="name")
    assert np.array_equal(state(config, str(tmp_path / "run"))[TWEET], vectors)


def test_rows_of_length_1_get_it(graph: Graph, tmp_path: Path) -> None:
    rows = np.zeros((17, DIM))
    rows[:, 2], rows[:, 5] = 3 * np.arange(1, 18), -4 * np.arange(1, 18)
    path = write_vectors(tmp_path / "v.parquet", dict(zip(graph.tweets, rows, strict=True)))
    table = {"optimizer": {"spherical_adagrad": {"lr": 0.1}}}
    found = state(with_initial(graph, tmp_path, path, table_=table), str(tmp_path / "run"))[TWEET]
    expected = np.tile(np.array([0, 0, 0.6, 0, 0, -0.8, 0, 0], np.float32), (17, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("width", [1, 3, 7, 9, 40])
@pytest.mark.parametrize("is_unit", [False, True])
def test_other_dimensions_are_mapped(width: int, is_unit: bool, graph: Graph, tmp_path: Path) -> None:
    vectors = np.stack(list(draw_vectors(graph.tweets, width).values()))
    path = write_vectors(tmp_path / "v.parquet", dict(zip(graph.tweets, vectors, strict=True)))
    optimizer = "spherical_adagrad" if is_unit else "adagrad"
    config = with_initial(
        graph, tmp_path, path, table_={"optimizer": {optimizer: {"lr": 0.1}}}, training={"seed": width}
    )
    found = state(config, str(tmp_path / "run"))[TWEET]
    drawn = np.random.RandomState(0).normal(0.0, math.sqrt(1 / DIM), (width, DIM))  # as the docs say, whatever the seed
    expected = np.array([[sum(v[i] * drawn[i, j] for i in range(width)) for j in range(DIM)] for v in vectors])
    np.testing.assert_allclose(found, unit(expected) if is_unit else expected, rtol=2e-6, atol=1e-7)


@given(st.integers(1, 300), st.sampled_from([64, 128, 256]), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_the_map_keeps_lengths_and_angles_on_average(width: int, dim: int, seed: int) -> None:
    """Of one vector, |v·G|² is |v|²·χ²(dim)/dim: the mean of many coordinates is within six standard deviations."""
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, width))
    mapped, with_other = one @ random_map(width, dim), other @ random_map(width, dim)
    deviation = math.sqrt(2 / dim)
    assert abs(mapped @ mapped / (one @ one) - 1) < 6 * deviation
    assert abs(mapped @ with_other - one @ other) < 6 * deviation * math.sqrt((one @ one) * (other @ other))


OPTIMIZERS = ("sgd", "adam", "adagrad", "rowwise_adagrad", "spherical_adagrad")
FROZEN = [
    *((optimizer, "auto", "fp32", 1) for optimizer in OPTIMIZERS),
    ("rowwise_adagrad", "row_wise", "fp16", 1),  # updated by fbgemm's kernel
    ("adagrad", "column_wise", "fp32", 2),
    ("spherical_adagrad", "row_wise", "fp32", 2),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("sgd", "table_wise", "fp32", 2),
            ("adagrad", "data_parallel", "fp32", 2),
            ("spherical_adagrad", "data_parallel", "fp32", 2),
            ("adagrad", "row_wise", "fp16", 3),
            ("sgd", "row_wise", "fp16", 2),
        )
    ),
]


@pytest.mark.parametrize(("optimizer", "sharding", "kind", "ranks"), FROZEN)
def test_frozen_rows_stay_bit_by_bit(
    optimizer: str, sharding: str, kind: str, ranks: int, graph: Graph, tmp_path: Path
) -> None:
    vectors = draw_vectors(graph.users[4:20])
    vectors[graph.users[4]] = np.array([-0.0, 1, *[0.0] * (DIM - 2)], np.float32)
    if optimizer == "spherical_adagrad":
        vectors = {name: unit(v.astype(np.float64)[None])[0].astype(np.float32) for name, v in vectors.items()}
    path = write_vectors(tmp_path / "v.parquet", vectors)
    table = {"optimizer": {optimizer: {"lr": 0.1}}, "sharding": sharding, "data_type": kind}
    model = {} if optimizer == "spherical_adagrad" else {"regularization": {"tables": 0.1, "power": 2}}
    config = with_initial(graph, tmp_path, path, "user", frozen=True, table_=table, model=model)
    usual = state(graph.config(tmp_path / "graph", table=table), str(tmp_path / "usual"), ranks)[USER]
    run_ranks(ranks, train, config, str(tmp_path / "run")) if ranks > 1 else train(config, str(tmp_path / "run"))
    found = saved(str(tmp_path / "run"), USER)
    is_frozen = np.array([name in vectors for name in graph.users])
    expected = np.stack([vectors[name] for name in graph.users if name in vectors])
    expected = expected.astype(np.float16 if kind == "fp16" else np.float32).astype(np.float32)
    if optimizer == "spherical_adagrad":
        np.testing.assert_allclose(found[is_frozen], expected, rtol=3e-7)
        expected = state(config, str(tmp_path / "start"), ranks)[USER][is_frozen]
    assert found.dtype == expected.dtype
    assert np.array_equal(found[is_frozen].view(np.uint8), expected.view(np.uint8))
    assert (found != usual)[~is_frozen].any(1).all(), "the others are trained"


@pytest.mark.parametrize("frozen", [False, True])
def test_sharded_tables_start_as_others_do(frozen: bool, graph: Graph, tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "v.parquet", draw_vectors(graph.tweets[:13], 21))
    for number, (sharding, ranks) in enumerate((("row_wise", 2), ("column_wise", 2))):
        table = {"optimizer": {"adagrad": {"lr": 0.1}}, "sharding": sharding}
        config = with_initial(graph, tmp_path, path, frozen=frozen, table_=table)
        whole = state(config, str(tmp_path / f"whole{number}"))
        parts = state(config, str(tmp_path / f"parts{number}"), ranks)
        assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_blocks_do_not_show(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_initial(graph, tmp_path, write_vectors(tmp_path / "v.parquet", draw_vectors(graph.tweets, 5)))
    whole = state(config, str(tmp_path / "whole"))
    monkeypatch.setattr(outside, "BATCH_BYTES", 8 * 5 * 3)
    monkeypatch.setattr(outside, "IDS_AT_ONCE", 4)
    parts = state(config, str(tmp_path / "parts"))
    assert np.array_equal(whole[TWEET], parts[TWEET])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_resumed_training_ends_as_an_undisturbed_one(frozen: bool, graph: Graph, tmp_path: Path) -> None:
    vectors = draw_vectors(graph.tweets[2:])
    path = write_vectors(tmp_path / "v.parquet", vectors)
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    train(with_initial(graph, tmp_path, path, frozen=frozen), whole)
    train(with_initial(graph, tmp_path, path, frozen=frozen, training={"num_train_steps": 3}), parts)
    Path(path).unlink()  # what is frozen is known without it
    train(with_initial(graph, tmp_path, path, frozen=frozen), parts)
    ends = [checkpoint.newest(root) for root in (whole, parts)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].marker.position == ends[1].marker.position
    for name in (USER, TWEET, f"optimizer.{TWEET}.tweet.momentum1"):
        assert np.array_equal(saved(whole, name), saved(parts, name))
    if frozen:
        assert np.array_equal(saved(parts, TWEET)[2:], np.stack([vectors[name] for name in graph.tweets[2:]]))
    parts_of = {part.name: part.state for part in verify(parts) if "initial" in part.name}
    assert parts_of == {"training/initial.json": "whole", "training/initial/tweet": "whole"}


def test_files_that_change_after_training_began_are_refused(graph: Graph, tmp_path: Path) -> None:
    path, root = write_vectors(tmp_path / "v.parquet", draw_vectors(graph.tweets)), str(tmp_path / "run")
    train(with_initial(graph, tmp_path, path, frozen=True, training={"num_train_steps": 3}), root)
    write_vectors(Path(path), draw_vectors(graph.tweets[:5], seed=2))
    with pytest.raises(UserError, match=r"v\.parquet: changed since training read it: .*; use another --run-root$"):
        train(with_initial(graph, tmp_path, path, frozen=True), root)
    Path(root, RECORD).unlink()
    with pytest.raises(Damaged, match=r"initial\.json: says nothing of tweet"):
        train(with_initial(graph, tmp_path, path, frozen=True), root)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("new_nodes", ["random", "neighbors"])
def test_an_earlier_version_comes_first_but_for_frozen_rows(
    frozen: bool, new_nodes: str, graph: Graph, tmp_path: Path
) -> None:
    old = Graph(graph.users, graph.tweets[5:], [of for of in graph.edges if of[2] not in graph.tweets[:5]])
    old.write(tmp_path / "old")
    before, root = str(tmp_path / "before"), str(tmp_path / "run")
    train(old.config(tmp_path / "old"), before)
    vectors = draw_vectors(graph.tweets[2:9])
    path = write_vectors(tmp_path / "v.parquet", vectors)
    training = {"warm_start": {"from": before, "new_nodes": new_nodes}}
    plain = state(graph.config(tmp_path / "graph", training=training), str(tmp_path / "plain"))[TWEET]
    found = state(with_initial(graph, tmp_path, path, frozen=frozen, training=training), root)[TWEET]
    earlier = saved(before, TWEET)
    for row, name in enumerate(graph.tweets):
        if name in vectors and (frozen or row < 5):
            expected = vectors[name]  # a new node, even if its edges predict a vector
        elif row >= 5:
            expected = earlier[old.tweets.index(name)]
        else:
            expected = plain[row]
        assert np.array_equal(found[row], expected), name


def test_of_weights_from_a_checkpoint_frozen_rows_alone_differ(graph: Graph, tmp_path: Path) -> None:
    before = str(tmp_path / "before")
    train(graph.config(tmp_path / "graph"), before)
    vectors = draw_vectors(graph.tweets[2:9])
    path, training = write_vectors(tmp_path / "v.parquet", vectors), {"initial_checkpoint_dir": before}
    found = state(with_initial(graph, tmp_path, path, frozen=True, training=training), str(tmp_path / "run"))
    expected = saved(before, TWEET).copy()
    expected[2:9] = np.stack(list(vectors.values()))
    assert np.array_equal(found[TWEET], expected)
    with pytest.raises(UserError, match=r"tables\.1\.initial: has no effect with training\.initial_checkpoint_dir"):
        with_initial(graph, tmp_path, path, training=training)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1) as proxy:
        yield proxy


def test_files_on_an_object_store(
    graph: Graph, server: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vectors = draw_vectors(graph.tweets)
    bucket = reach(server, monkeypatch)
    for number in range(2):
        some = {name: vectors[name] for name in graph.tweets[9 * number : 9 * number + 9]}
        with storage.open_write(f"{bucket}/vectors/{number}.parquet") as file:
            file.write(Path(write_vectors(tmp_path / "v.parquet", some)).read_bytes())
    config = with_initial(graph, tmp_path, f"{bucket}/vectors")
    assert np.array_equal(state(config, str(tmp_path / "run"))[TWEET], np.stack(list(vectors.values())))
    with pytest.raises(UserError, match=r"gs://.*/none: no file matches"):
        state(with_initial(graph, tmp_path, f"{bucket}/none"), str(tmp_path / "other"))


@given(data=st.data())
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_vectors_match_as_a_dictionary_does(data: st.DataObject, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=4)
    nodes = data.draw(st.lists(text, min_size=1, max_size=12, unique=True))
    names = data.draw(st.permutations([*nodes, *data.draw(st.lists(text, max_size=6, unique=True))]))
    names = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    edges = [("u", "fav", name, 1.0) for name in nodes]
    graph = Graph(["u"], nodes, edges, [FOLLOW, FAV])
    graph.write(tmp_path / "graph")
    vectors = draw_vectors(names)
    path = write_vectors(tmp_path / "v.parquet", vectors)
    usual = state(graph.config(tmp_path / "graph"), str(tmp_path / "usual"))[TWEET]
    config = with_initial(graph, tmp_path, path)
    both = set(nodes) & set(names)
    if not both:
        with pytest.raises(UserError, match="none of the"):
            state(config, str(tmp_path / "run"))
        return
    found = state(config, str(tmp_path / "run"))[TWEET]
    assert np.array_equal(found, np.stack([vectors.get(name, usual[row]) for row, name in enumerate(nodes)]))
    record = storage.read_json(str(tmp_path / "run" / RECORD))["tweet"]
    assert record["matched"] == len(both)
    assert record["without_vector"] == len(nodes) - len(both)
    assert record["without_node"] == len(names) - len(both)
