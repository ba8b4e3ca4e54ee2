"""Neighbors through an exported faiss index: a flat one is exact, where it ranks by what is asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SmallConfig
from tests.embeddings.test_embeddings import assert_sorted, read
from tests.export.exporting import changed
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings, Neighbor
from twhin_core.errors import UserError
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

Trained = tuple[Config, str]


def exported(config: Config, root: str, **settings: object) -> Embeddings:
    export(changed(config, "export", formats=["parquet", "faiss"], **settings), root)
    return Embeddings.load(root)


def run(small_config: SmallConfig, root: Path, **model: object) -> Trained:
    config = small_config(model=model, training={"num_epochs": 1})
    for stage in (prepare, train):
        stage(config, str(root))
    return config, str(root)


def assert_same(found: list[Neighbor], exact: list[Neighbor]) -> None:
    assert [one.id for one in found] == [one.id for one in exact]
    assert [one.score for one in found] == pytest.approx([one.score for one in exact], abs=1e-5)


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoint kept", "checkpoint gone"])
def test_the_dot_products_of_relations(trained: Trained, kept: bool) -> None:
    embeddings = exported(*trained)
    if not kept:
        shutil.rmtree(f"{trained[1]}/checkpoints")
        embeddings = Embeddings.load(trained[1])
    users, tweets = embeddings["user"], embeddings["tweet"]
    for k in (1, 5, 100):
        assert_same(users.neighbors("u3", "fav", k, index=True), users.neighbors("u3", "fav", k))
        assert_same(users.neighbors("u3", "follow", k, index=True), users.neighbors("u3", "follow", k))
        assert_same(tweets.neighbors("t4", "fav", k, "lhs", index=True), tweets.neighbors("t4", "fav", k, "lhs"))
    assert users.describe("fav", index=True).startswith(
        "by the model's score (dot), through the flat index (recall@10 1), step "
    )


def test_without_a_relation_an_index_of_dot_products_gives_these(trained: Trained) -> None:
    embeddings = exported(*trained)
    ids, vectors = read(trained[1], "user")
    found = embeddings["user"].neighbors("u3", k=100, index=True)
    assert_sorted(found, ids, vectors @ vectors[ids.index("u3")], leave_out="u3")
    assert embeddings["user"].describe(index=True).startswith("by inner product, through the flat index")


def test_cosines_of_normalized_vectors(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = run(small_config, tmp_path / "run", comparator="cos", reciprocal=True)
    embeddings = exported(config, root, normalize=True)
    users, tweets = embeddings["user"], embeddings["tweet"]
    assert_same(users.neighbors("u3", k=39, index=True), users.neighbors("u3", k=39))
    assert_same(users.neighbors("u3", "fav", 30, index=True), users.neighbors("u3", "fav", 30))
    assert_same(tweets.neighbors("t4", "fav", 40, "lhs", index=True), tweets.neighbors("t4", "fav", 40, "lhs"))
    assert users.describe(index=True).startswith("by cosine, through the flat index")
    assert users.describe("fav", index=True).startswith("by the model's score (cos), through")
    users = exported(config, root, normalize=False)["user"]  # the index has unit vectors all the same
    assert_same(users.neighbors("u3", "fav", 30, index=True), users.neighbors("u3", "fav", 30))
    assert users.describe("fav", index=True).startswith("by the model's score (cos), through the flat index")


@pytest.mark.parametrize("comparator", ["l2", "squared_l2"])
def test_distances(small_config: SmallConfig, tmp_path: Path, comparator: str) -> None:
    config, root = run(small_config, tmp_path / "run", comparator=comparator)
    users = exported(config, root)["user"]
    assert_same(users.neighbors("u3", "fav", 30, index=True), users.neighbors("u3", "fav", 30))
    ids, vectors = read(root, "user")
    distances = np.linalg.norm(vectors - vectors[ids.index("u3")], axis=1)
    scores = -distances if comparator == "l2" else -(distances**2)
    assert_sorted(users.neighbors("u3", k=100, index=True), ids, scores, leave_out="u3")
    assert ("squared" in users.describe(index=True)) == (comparator == "squared_l2")
    with pytest.raises(UserError, match="an index cannot answer for this relation's lhs"):
        users.neighbors("u3", "follow", side="lhs", index=True)
    assert users.neighbors("u3", "follow", side="lhs")


def test_an_index_that_is_not_exact_finds_most(trained: Trained) -> None:
    users = exported(*trained, faiss={"kind": "hnsw", "hnsw": {"links": 4}})["user"]
    found = {one.id for one in users.neighbors("u3", "fav", index=True)}
    assert len(found & {one.id for one in users.neighbors("u3", "fav")}) >= 8
    assert "through the hnsw index" in users.describe("fav", index=True)


def test_without_an_index_one_line_says_so(trained: Trained) -> None:
    config, root = trained
    with pytest.raises(UserError, match="nothing has been exported, so there is no index; run `twhin export`"):
        Embeddings.load(root)["user"].neighbors("u3", index=True)
    export(config, root)
    with pytest.raises(UserError, match=r"no index of table tweet was exported; add faiss to export\.formats"):
        Embeddings.load(root)["user"].neighbors("u3", "fav", index=True)


@pytest.mark.parametrize("content", [b"", b"no index" * 50, None], ids=["empty", "another", "cut"])
def test_a_broken_index_is_the_users_error(trained: Trained, content: bytes | None) -> None:
    users = exported(*trained)["user"]
    path = Path(trained[1], "embeddings/faiss/user.index")
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UserError, match=r"faiss/user\.index: does not match its checksum") as error:
        users.neighbors("u3", index=True)
    assert "\n" not in str(error.value)
