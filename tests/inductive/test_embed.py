"""Vectors of new nodes: of which nodes, from which edges, and what they are."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.embeddings.test_embeddings import read
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.inductive import edges as reading
from twhin_core.inductive import embed as embedding
from twhin_core.inductive.frozen import sample_edges
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.vectors import matching

ROWS = [
    ("new2", "fav", "t3", 1.0), ("new1", "fav", "t4", 1.0), ("new1", "fav", "t5", 3.0), ("u3", "follow", "new1", 1.0),
    ("u5", "fav", "t1", 1.0), ("new3", "fav", "unknown", 1.0), ("new1", "likes", "t1", 1.0),
    ("new1", "follow", "new2", 1.0),
]  # fmt: skip
EDGES = pa.table(dict(zip(("lhs", "relation", "rhs", "weight"), map(list, zip(*ROWS, strict=True)), strict=True)))


@pytest.fixture
def embeddings(trained: tuple[Config, str]) -> Embeddings:
    config, root = trained
    export(config, root)
    return Embeddings.load(root)


def vectors(table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    return dict(zip(table["id"].to_pylist(), np.stack(table["embedding"].to_numpy()), strict=True))


def test_the_mean_is_that_of_what_the_edges_predict(embeddings: Embeddings, trained: tuple[Config, str]) -> None:
    root = trained[1]
    relations = pq.read_table(f"{root}/embeddings/relations.parquet").to_pylist()
    moved = {relation["name"]: np.array(relation["embedding"]) for relation in relations}
    tweets = dict(zip(*read(root, "tweet"), strict=True))
    users = dict(zip(*read(root, "user"), strict=True))
    found = embeddings.embed("user", EDGES, "mean")
    assert found["id"].to_pylist() == ["new1", "new2"]  # new3 has no trained neighbor, u5 is trained
    assert found["edges"].to_pylist() == [3, 1]
    new1 = (tweets["t4"] - moved["fav"]) + 3 * (tweets["t5"] - moved["fav"]) + (users["u3"] + moved["follow"])
    expected = {"new1": new1 / 5, "new2": tweets["t3"] - moved["fav"]}
    for name, vector in vectors(found).items():
        np.testing.assert_allclose(vector, expected[name], atol=1e-5)


def test_trained_nodes_are_embedded_where_asked_for(embeddings: Embeddings) -> None:
    found = embeddings.embed("user", EDGES, "mean", with_known=True)
    assert found["id"].to_pylist() == ["new1", "new2", "u5"]  # u3 has no trained neighbor here


def test_the_fit_lowers_the_loss_and_leaves_everything_else(embeddings: Embeddings) -> None:
    before = embeddings["tweet"].to_arrow()
    mean, fit = (embeddings.embed("user", EDGES, method) for method in ("mean", "fit"))
    assert mean["id"].equals(fit["id"])
    embedder = embedding.Embedder(embeddings.trained, "user")
    block = next(reading._cut([
        pa.record_batch({"node": ["new1", "new2"], "rel": [1, 1], "asks_rhs": [True, True],
                         "other": [at("t4", embeddings), at("t3", embeddings)], "weight": [1.0, 1.0]})
    ]))  # fmt: skip
    start = embedder.mean(block)
    fitted = embedder.fit(block, start)
    loss = embedding.Objective(embedder.frozen, block)
    assert float(loss(fitted)) < float(loss(start))
    assert before.equals(embeddings["tweet"].to_arrow())
    assert torch.isfinite(fitted).all()


def at(name: str, embeddings: Embeddings) -> int:
    return list(embeddings["tweet"]).index(name)


@pytest.mark.parametrize("method", ["mean", "fit"])
def test_shares_divide_the_nodes(embeddings: Embeddings, method: embedding.Method) -> None:
    edges = pa.table({
        "lhs": [f"new{n % 50}" for n in range(150)], "relation": ["fav"] * 150,
        "rhs": [f"t{n % 29}" for n in range(150)],
    })  # fmt: skip
    whole = embeddings.embed("user", edges, method)
    parts = [
        pa.Table.from_batches(
            embedding.embed(embeddings.trained, "user", reading.checked(edges, "edges"), method, share=(i, 3))
        )
        for i in range(3)
    ]
    assert all(part.num_rows for part in parts)
    divided = pa.concat_tables(parts).sort_by("id")
    if method == "mean":
        assert divided.equals(whole)
    assert divided.drop("embedding").equals(whole.drop("embedding"))
    of_parts, of_whole = (np.stack(of["embedding"].to_numpy()) for of in (divided, whole))
    np.testing.assert_allclose(of_parts, of_whole, atol=1e-4)


def test_edges_count_by_the_weights_of_their_relations(small_config: SmallConfig, tmp_path: Path) -> None:
    relations = [
        {"name": "follow", "lhs": "user", "rhs": "user", "weight": 4.0},
        {"name": "fav", "lhs": "user", "rhs": "tweet", "weight": 0.5},
    ]
    config, root = small_config(model={"relations": relations}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    embeddings = Embeddings.load(root)
    rows = [("new", "fav", "t4", 1.0), ("u3", "follow", "new", 1.0), ("new", "fav", "t5", 3.0)]
    edges = pa.table(dict(zip(EDGES.column_names, map(list, zip(*rows, strict=True)), strict=True)))
    scorer = embeddings.trained.vectors.scorer()
    follow, fav = (scorer.operator.of(rel).detach().numpy() for rel in range(2))
    users, tweets = embeddings["user"], embeddings["tweet"]
    expected = 0.5 * (tweets["t4"] - fav) + 4 * (users["u3"] + follow) + 1.5 * (tweets["t5"] - fav)
    np.testing.assert_allclose(vectors(embeddings.embed("user", edges, "mean"))["new"], expected / 6, atol=1e-5)


def test_rows_without_an_id_take_no_part(trained: tuple[Config, str], tmp_path: Path) -> None:
    """The vocabulary has gaps, so that positions are not rows."""
    prepared, root = trained
    index = [39, 0, 7, 41, 12, 3, 28, 14, 15, 16]  # of 45 rows, in no order
    pq.write_table(pa.table({"index": index, "id": [f"node {row}" for row in index]}), tmp_path / "v.parquet")
    tree = prepared.model_dump()
    tree["prepare"] = None
    tree["train_data"]["data_root"] = f"{root}/graph/edges/train/*.parquet"
    users, tweets = tree["model"]["embeddings"]["tables"]
    users.update(num_embeddings=45, vocab=str(tmp_path / "v.parquet"))
    tweets.update(num_embeddings=30)
    config, other = Config.model_validate(tree), str(tmp_path / "other")
    train(config, other)

    embeddings = Embeddings.load(other)
    edges = pa.table({"lhs": ["node 12", "node 41", "12"], "relation": ["fav"] * 3, "rhs": ["new"] * 3})
    fav = embeddings.trained.vectors.scorer().operator.of(1).detach().numpy()
    rows = newest(other).rows("user").read(0, 45).numpy()
    found = embeddings.embed("tweet", edges, "mean")
    assert found["edges"].to_pylist() == [2]
    np.testing.assert_allclose(vectors(found)["new"], (rows[12] + rows[41]) / 2 + fav, atol=1e-5)
    assert np.isfinite(vectors(embeddings.embed("tweet", edges))["new"]).all()

    run = embeddings.trained
    sample, count = sample_edges(run.config, run.root, run.schema, run.vectors.ids)
    trained_on = pq.read_table(f"{root}/graph/edges/train").to_pylist()
    at = {row: position for position, row in enumerate(sorted(index))}
    ends = [(row["lhs"], row["rel"], row["rhs"]) for row in trained_on]
    expected = [(at[lhs], rel, rhs if rel else at[rhs]) for lhs, rel, rhs in ends if lhs in at and (rel or rhs in at)]
    assert count == len(trained_on)
    assert sorted(zip(sample.lhs.tolist(), sample.rel.tolist(), sample.rhs.tolist(), strict=True)) == sorted(expected)


def test_a_fit_without_training_edges_is_one_line(embeddings: Embeddings, trained: tuple[Config, str]) -> None:
    shutil.rmtree(f"{trained[1]}/graph/edges/train")
    assert embeddings.embed("user", EDGES, "mean").num_rows == 2
    with pytest.raises(UserError, match="graph/edges/train"):
        embeddings.embed("user", EDGES)


def test_blocks_hold_whole_nodes(embeddings: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    edges = pa.table({
        "lhs": [f"new{n}" for n in rng.integers(40, size=400)], "relation": ["fav"] * 400,
        "rhs": [f"t{n}" for n in rng.integers(30, size=400)],
    })  # fmt: skip
    whole = embeddings.embed("user", edges, "mean")
    monkeypatch.setattr(reading, "ENDS_PER_BLOCK", 7)
    cut = embeddings.embed("user", edges, "mean")
    assert cut["edges"].equals(whole["edges"])
    of_cut, of_whole = (np.stack(of["embedding"].to_numpy()) for of in (cut, whole))
    np.testing.assert_allclose(of_cut, of_whole, atol=1e-6)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({"lhs": ["a"], "rhs": ["t1"]}, "edges: has no column relation; edges need lhs, relation and rhs"),
        ({"lhs": ["a"], "relation": ["fav"], "rhs": ["t1"], "weight": [0.0]}, "a weight is not a positive number"),
        ({"lhs": ["a"], "relation": ["fav"], "rhs": ["t1"], "weight": [float("nan")]}, "a weight is not a positive"),
        ({"lhs": ["a"], "relation": ["fav"], "rhs": ["t1"], "weight": [None]}, "a weight is not a positive number"),
        ({"lhs": [["a"]], "relation": ["fav"], "rhs": ["t1"]}, "edges: Unsupported cast"),
    ],
)
def test_bad_edges_are_one_line(embeddings: Embeddings, edges: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        embeddings.embed("user", pa.table(edges))


def test_edges_that_need_more_memory_or_disk_are_one_line(
    embeddings: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "LEAST_MEGABYTES", 1)
    trained = embeddings.trained
    small = trained.config.evaluation.model_copy(update={"memory_limit": "1MB"})
    trained = replace(trained, config=trained.config.model_copy(update={"evaluation": small}))
    with pytest.raises(UserError, match=r"evaluation\.memory_limit: too small to sort these edges; raise it"):
        list(embedding.embed(trained, "user", reading.checked(EDGES, "edges")))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reading, "_load", fail)
    with pytest.raises(UserError, match="set TMPDIR to another folder"):
        embeddings.embed("user", EDGES)


def test_nothing_to_embed_is_an_empty_table(embeddings: Embeddings) -> None:
    edges = pa.table({"lhs": ["a", None], "relation": ["fav", "fav"], "rhs": ["unknown", "t1"]})
    assert embeddings.embed("user", edges).num_rows == 0


def test_the_command(embeddings: Embeddings, trained: tuple[Config, str], tmp_path: Path) -> None:
    pq.write_table(EDGES, tmp_path / "edges.parquet")
    output = tmp_path / "out.parquet"
    command = ("embed", trained[1], tmp_path / "edges.parquet", "--table", "user", "--output", output)
    ran = twhin(*command)
    assert ran.returncode == 0, ran.stderr
    assert "embed: 4 edges from a new node of user to a trained one" in ran.stderr
    assert "1 of 8 edges are of relations that were not trained" in ran.stderr
    assert pq.read_table(output).equals(embeddings.embed("user", EDGES))
    assert_refused(twhin(*command[:-1], output, "--share", "3/2"), "--share 3/2: expected I/N")
    assert_refused(
        twhin("embed", trained[1], "nothing.parquet", "--table", "user", "--output", output), "nothing.parquet"
    )
    assert_refused(twhin(*command[:4], "tweets", "--output", output), "no table named 'tweets'")
