"""The Python API, against brute force over arrays that pyarrow reads from the exported files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.export.exporting import changed
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.run import saved_config
from twhin_core.schema import Side
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

Floats = npt.NDArray[np.float64]
Trained = tuple[Config, str]

OPERATORS = [
    {"name": "follow", "lhs": "user", "rhs": "user", "operator": "complex_diagonal"},
    {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": "affine"},
]


@pytest.fixture
def exported(trained: Trained) -> str:
    config, root = trained
    export(changed(config, "export", rows_per_file=7), root)
    return root


@pytest.fixture(scope="module")
def reciprocal_root(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {}


@pytest.fixture
def reciprocal(reciprocal_root: dict[str, str], small_config: SmallConfig, tmp_path: Path) -> str:
    """The root of an exported run with an inverse, a cosine and an operator of many parameters a relation."""
    if not reciprocal_root:
        model = {"reciprocal": True, "comparator": "cos", "relations": OPERATORS}
        config, root = small_config(model=model), str(tmp_path / "once")
        for stage in (prepare, train, export):
            stage(config, root)
        reciprocal_root["root"] = root
    return str(shutil.copytree(reciprocal_root["root"], tmp_path / "run"))


def read(root: str, table: str) -> tuple[list[str], Floats]:
    files = sorted(Path(root, "embeddings", table).glob("*.parquet"))
    rows = pa.concat_tables([pq.read_table(file) for file in files])
    return rows["id"].to_pylist(), np.array(rows["embedding"].to_pylist())


def relation(root: str, name: str, column: str = "embedding") -> Floats:
    rows = pq.read_table(f"{root}/embeddings/relations.parquet").to_pylist()
    return next(np.array(row[column]) for row in rows if row["name"] == name)


def cosine(one: Floats, many: Floats) -> Floats:
    return many @ one / np.linalg.norm(many, axis=1) / np.linalg.norm(one)


def assert_sorted(found: list[tuple[str, float]], ids: list[str], scores: Floats, leave_out: str | None = None) -> None:
    """`found` is all that there is, by descending score."""
    expected = dict(zip(ids, scores.tolist(), strict=True))
    if leave_out is not None:
        del expected[leave_out]
    assert dict(found) == pytest.approx(expected, abs=1e-5)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoint kept", "checkpoint gone"])
def test_neighbors_are_a_sort_of_the_table_by_cosine(exported: str, kept: bool) -> None:
    if not kept:
        shutil.rmtree(f"{exported}/checkpoints")
    ids, vectors = read(exported, "user")
    users = Embeddings.load(exported)["user"]
    for name in ("u0", "u17", ids[0], ids[-1]):
        scores = cosine(vectors[ids.index(name)], vectors)
        assert_sorted(users.neighbors(name, k=1000), ids, scores, leave_out=name)
        assert users.neighbors(name, k=10**400) == users.neighbors(name, k=1000)
        nearest = users.neighbors(name, k=3)
        assert [one.id for one in nearest] == [ids[at] for at in np.argsort(-scores)[1:4]]


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoint kept", "checkpoint gone"])
def test_a_relation_is_asked_by_the_models_score(exported: str, kept: bool) -> None:
    if not kept:
        shutil.rmtree(f"{exported}/checkpoints")
    (users, of_users), (tweets, of_tweets) = read(exported, "user"), read(exported, "tweet")
    fav, follow = relation(exported, "fav"), relation(exported, "follow")
    lhs, rhs = of_users[users.index("u3")], of_tweets[tweets.index("t4")]
    embeddings = Embeddings.load(exported)
    found = embeddings["user"].neighbors("u3", relation="fav", k=30)
    assert_sorted(found, tweets, of_tweets @ (lhs + fav))
    found = embeddings["tweet"].neighbors("t4", relation="fav", k=40, side="lhs")
    assert_sorted(found, users, (of_users + fav) @ rhs)
    found = embeddings["user"].neighbors("u3", relation="follow", k=40)
    assert_sorted(found, users, of_users @ (lhs + follow), leave_out="u3")
    found = embeddings["user"].neighbors("u3", relation="follow", k=40, side="lhs")
    assert_sorted(found, users, (of_users + follow) @ lhs, leave_out="u3")


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoint kept", "checkpoint gone"])
def test_inverses_and_every_parameter_of_an_operator_count(reciprocal: str, kept: bool) -> None:
    if not kept:
        shutil.rmtree(f"{reciprocal}/checkpoints")
    (users, of_users), (tweets, of_tweets) = read(reciprocal, "user"), read(reciprocal, "tweet")
    lhs, rhs = of_users[users.index("u3")], of_tweets[tweets.index("t4")]
    embeddings = Embeddings.load(reciprocal)

    def affine(column: str, vector: Floats) -> Floats:
        matrix = relation(reciprocal, "fav", column).reshape(8, 9)
        return matrix[:, :8] @ vector + matrix[:, 8]

    def turned(column: str, vector: Floats) -> Floats:
        theta = relation(reciprocal, "follow", column)
        product = (theta[:4] + 1j * theta[4:]) * (vector[:4] + 1j * vector[4:])
        return np.concatenate([product.real, product.imag])

    assert np.abs(affine("embedding", lhs) - affine("inverse", lhs)).max() > 1e-3
    found = embeddings["user"].neighbors("u3", relation="fav", k=30)
    assert_sorted(found, tweets, cosine(affine("embedding", lhs), of_tweets))
    found = embeddings["tweet"].neighbors("t4", relation="fav", k=40, side="lhs")
    assert_sorted(found, users, cosine(affine("inverse", rhs), of_users))
    found = embeddings["user"].neighbors("u3", relation="follow", k=40)
    assert_sorted(found, users, cosine(turned("embedding", lhs), of_users), leave_out="u3")
    score = embeddings.score("fav", "u3", "t4")
    assert score.rhs.score == pytest.approx(cosine(affine("embedding", lhs), rhs[None])[0], abs=1e-5)
    assert score.lhs.score == pytest.approx(cosine(affine("inverse", rhs), lhs[None])[0], abs=1e-5)


def test_an_edge_has_its_score_and_the_rank_of_either_end(exported: str) -> None:
    (users, of_users), (tweets, of_tweets) = read(exported, "user"), read(exported, "tweet")
    fav, follow = relation(exported, "fav"), relation(exported, "follow")
    embeddings = Embeddings.load(exported)
    for user, tweet in (("u3", "t4"), ("u0", "t29"), ("u39", "t0")):
        row, column = users.index(user), tweets.index(tweet)
        scores = (of_users + fav) @ of_tweets.T
        found = embeddings.score("fav", user, tweet)
        own = scores[row, column]
        assert (found.rhs.score, found.lhs.score) == pytest.approx((own, own), abs=1e-5)
        assert (found.rhs.rank, found.rhs.candidates) == (1 + (scores[row] > own).sum(), 30)
        assert (found.lhs.rank, found.lhs.candidates) == (1 + (scores[:, column] > own).sum(), 40)
    row, column = users.index("u3"), users.index("u5")
    scores = (of_users + follow) @ of_users.T
    found = embeddings.score("follow", "u3", "u5")
    others = np.delete(scores[row], row)  # nobody is asked whether they follow themselves
    assert (found.rhs.rank, found.rhs.candidates) == (1 + (others > scores[row, column]).sum(), 39)
    itself = embeddings.score("follow", "u3", "u3").rhs
    assert (itself.rank, itself.candidates) == (1 + (scores[row] > scores[row, row]).sum(), 40)


def test_the_first_of_the_neighbors_has_rank_one(exported: str) -> None:
    embeddings = Embeddings.load(exported)
    best, second = embeddings["user"].neighbors("u3", relation="follow", k=2)
    assert embeddings.score("follow", "u3", best.id).rhs.rank == 1
    found = embeddings.score("follow", "u3", second.id)
    assert (found.rhs.rank, found.rhs.score) == (2, second.score)


def test_a_table_is_a_mapping_of_its_ids(exported: str) -> None:
    embeddings = Embeddings.load(exported)
    assert list(embeddings) == ["user", "tweet"]
    assert embeddings.get("tweets") is None
    for table in ("user", "tweet"):
        ids, vectors = read(exported, table)
        found = embeddings[table]
        assert list(found) == ids
        assert (len(found), found.dim) == (len(ids), 8)
        assert f"{len(ids)} × 8" in repr(found)
        for name, vector in zip(ids, vectors, strict=True):
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name], vector.astype(np.float32))
    users = embeddings["user"]
    assert "u17" in users
    assert "t17" not in users
    assert "" not in users
    with pytest.raises(KeyError):
        users["u170"]


def test_it_becomes_arrow_and_pandas(exported: str) -> None:
    files = sorted(Path(exported, "embeddings/user").glob("*.parquet"))
    expected = pa.concat_tables([pq.read_table(file) for file in files])
    users = Embeddings.load(exported)["user"]
    assert users.to_arrow().equals(expected)
    assert pa.Table.from_batches(users.batches(9)).equals(expected)
    assert [batch.num_rows for batch in users.batches(9)][:2] == [7, 7]  # a file ends after each seven
    frame = users.to_pandas()
    assert list(frame.columns) == ["index", "id", "embedding"]
    ids, vectors = read(exported, "user")
    assert isinstance(frame, pd.DataFrame)
    np.testing.assert_array_equal(
        np.stack(frame.set_index("id").loc["u17", ["embedding"]]), vectors[[ids.index("u17")]]
    )


def test_opening_reads_no_vectors(exported: str) -> None:
    for path in [*Path(exported, "embeddings").rglob("*.parquet"), *Path(exported).rglob("*.distcp")]:
        path.write_bytes(b"")
    embeddings = Embeddings.load(exported)
    assert len(embeddings["user"]) == 40
    assert list(embeddings.relations) == ["follow", "fav"]
    with pytest.raises(UserError, match=r"part-0000\d\.parquet: its end does not match its checksum"):
        embeddings["user"]["u17"]


def test_before_the_first_export_the_newest_checkpoint_answers(trained: Trained) -> None:
    config, root = trained
    before = Embeddings.load(root)
    neighbors = before["user"].neighbors("u3", relation="fav", k=30)
    score, table = before.score("fav", "u3", "t4"), before["tweet"].to_arrow()
    step = newest(root).step
    assert before.step == step
    export(config, root)
    after = Embeddings.load(root)
    assert after["tweet"].to_arrow().equals(table)
    for kept in (True, False):
        if not kept:
            shutil.rmtree(f"{root}/checkpoints")
        embeddings = Embeddings.load(root)
        assert embeddings.step == step
        assert embeddings["user"].neighbors("u3", relation="fav", k=30) == neighbors
        assert embeddings.score("fav", "u3", "t4") == score


def test_after_an_export_a_newer_checkpoint_is_not_taken(trained: Trained) -> None:
    config, root = trained
    export(config, root)
    before = Embeddings.load(root)
    neighbors = before["user"].neighbors("u3", relation="fav")
    newest_step = newest(root).step
    shutil.copytree(f"{root}/checkpoints/5", f"{root}/checkpoints/99")
    marker = storage.read_json(f"{root}/checkpoints/99/complete.json")
    marker["position"]["step"] = 99
    storage.write_json(f"{root}/checkpoints/99/complete.json", marker)
    assert newest(root).step == 99
    after = Embeddings.load(root)
    assert before.step == after.step == newest_step
    assert after["user"].neighbors("u3", relation="fav") == neighbors


def test_a_table_that_was_not_exported_is_scored_while_its_checkpoint_is_kept(trained: Trained) -> None:
    config, root = trained
    export(changed(config, "export", tables=["user"]), root)
    embeddings = Embeddings.load(root)
    assert list(embeddings) == ["user"]
    assert len(embeddings["user"].neighbors("u3", relation="fav", k=30)) == 30
    shutil.rmtree(f"{root}/checkpoints")
    with pytest.raises(UserError, match=r"table tweet was not exported \(export\.tables\), and the checkpoint of step"):
        Embeddings.load(root)["user"].neighbors("u3", relation="fav")


def test_rows_without_an_id_are_no_neighbors(trained: Trained, tmp_path: Path) -> None:
    prepared, root = trained
    vocab = tmp_path / "vocab"
    vocab.mkdir()
    index = [39, 0, 7, 41, 12, 3, 28]  # of 45 rows, in no order
    pq.write_table(pa.table({"index": index, "id": [f"node {row}" for row in index]}), vocab / "v.parquet")
    tree = prepared.model_dump()
    tree["prepare"] = None
    tree["train_data"]["data_root"] = f"{root}/graph/edges/train/*.parquet"
    users, tweets = tree["model"]["embeddings"]["tables"]
    users.update(num_embeddings=45, vocab=str(vocab))
    tweets.update(num_embeddings=30)
    tree["training"].update(num_epochs=1)
    config, other = Config.model_validate(tree), str(tmp_path / "other")
    train(config, other)

    vectors = newest(other).rows("user").read(0, 45).numpy().astype(float)
    by_cosine = [f"node {row}" for row in index], cosine(vectors[12], vectors[index])

    def check() -> None:
        embeddings = Embeddings.load(other)
        assert list(embeddings["user"]) == [f"node {row}" for row in sorted(index)]
        assert list(embeddings["tweet"])[:3] == ["0", "1", "2"]
        np.testing.assert_array_equal(embeddings["user"]["node 12"], vectors[12].astype(np.float32))
        assert_sorted(embeddings["user"].neighbors("node 12", k=100), *by_cosine, leave_out="node 12")
        assert embeddings.score("follow", "node 12", "node 3").rhs.candidates == 6

    check()
    config = changed(config, "export", formats=["parquet", "faiss"], normalize=True)
    export(config, other)
    users = Embeddings.load(other)["user"]
    assert_sorted(users.neighbors("node 12", k=100, index=True), *by_cosine, leave_out="node 12")
    export(changed(config, "export", formats=["parquet"], normalize=False), other)
    check()


def test_normalized_vectors_give_cosines_but_no_scores(trained: Trained) -> None:
    config, root = trained
    before = Embeddings.load(root)
    near, favs = before["user"].neighbors("u3", k=39), before["user"].neighbors("u3", relation="fav", k=30)
    vector = before["user"]["u3"]
    export(changed(config, "export", normalize=True), root)
    users = Embeddings.load(root)["user"]
    np.testing.assert_allclose(users["u3"], vector / np.linalg.norm(vector), rtol=1e-6)
    assert (users.neighbors("u3", k=39), users.neighbors("u3", relation="fav", k=30)) == (near, favs)
    shutil.rmtree(f"{root}/checkpoints")
    users = Embeddings.load(root)["user"]
    assert [one.id for one in users.neighbors("u3", k=39)] == [one.id for one in near]
    with pytest.raises(UserError, match=r"scores cannot be computed from normalized vectors \(export.normalize\), and"):
        users.neighbors("u3", relation="fav")


def test_without_parquet_the_checkpoint_answers(trained: Trained) -> None:
    config, root = trained
    expected = Embeddings.load(root)["tweet"].to_arrow()
    export(changed(config, "export", formats=["npy"]), root)
    assert Embeddings.load(root)["tweet"].to_arrow().equals(expected)
    shutil.rmtree(f"{root}/checkpoints")
    with pytest.raises(UserError, match=r"was exported without parquet \(as npy\), and the checkpoint of step \d+ no"):
        Embeddings.load(root)


MISTAKES = {
    "k": (lambda e: e["user"].neighbors("u3", k=0), "k: 0 is less than 1"),
    "table": (lambda e: e["twet"], "no table named 'twet'; did you mean tweet?"),
    "id": (lambda e: e["user"]["u33x"], "user: no node has the id 'u33x'; near it: 'u33', 'u13', 'u23'"),
    "given": (lambda e: e["user"].neighbors("U3"), "no node has the id 'U3'; near it: 'u3', 'u0', 'u1'"),
    "relation": (lambda e: e["user"].neighbors("u3", "Fav"), "no relation named 'Fav'; did you mean fav?"),
    "no relation": (lambda e: e["user"].neighbors("u3", "likes"), "named 'likes'; there are follow, fav"),
    "start": (
        lambda e: e["tweet"].neighbors("t3", "fav"),
        "relation fav does not start at table tweet: it leads from user to tweet; side lhs asks for its other end",
    ),
    "end": (
        lambda e: e["user"].neighbors("u3", "fav", side="lhs"),
        "relation fav does not end at table user: it leads from user to tweet; side rhs asks for its other end",
    ),
    "neither": (
        lambda e: e["tweet"].neighbors("t3", "follow"),
        "relation follow does not start at table tweet: it leads from user to user",
    ),
    "side": (lambda e: e["user"].neighbors("u3", side="lhs"), "side lhs selects an end of a relation"),
    "rhs": (lambda e: e.score("fav", "u3", "u3"), "tweet: no node has the id 'u3'; near it: 't3', "),
    "lhs": (lambda e: e.score("fav", "t3", "t3"), "user: no node has the id 't3'; near it: 'u3', "),
}


@pytest.mark.parametrize(("ask", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(ask, message: str, exported: str) -> None:
    with pytest.raises(UserError) as error:
        ask(Embeddings.load(exported))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_said(small_config: SmallConfig, tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"run: there is no run here \(config\.yaml\)"):
        Embeddings.load(root)
    prepare(small_config(), root)
    with pytest.raises(UserError, match=r"run: there is no complete checkpoint; run `twhin train` first"):
        Embeddings.load(root)


@pytest.mark.parametrize(
    ("table", "node", "relation", "side", "exclude"),
    [
        ("user", "u3", "fav", "rhs", ["fav"]),
        ("tweet", "t4", "fav", "lhs", ["fav"]),
        ("user", "u3", "follow", "rhs", ["follow"]),
        ("user", "u3", "follow", "lhs", ["follow"]),
        ("user", "u3", None, None, ["follow"]),
    ],
)
def test_nodes_that_known_edges_lead_to_are_left_out_where_asked_for(
    exported: str, table: str, node: str, relation: str | None, side: Side | None, exclude: list[str]
) -> None:
    embeddings, at = Embeddings.load(exported), {"rhs": ("lhs", "rhs"), "lhs": ("rhs", "lhs"), None: ("lhs", "rhs")}
    given, asked = at[side]
    raw = pq.read_table(saved_config(exported).prepare.sources[0].path).to_pylist()  # type: ignore[union-attr]
    known = {row[asked] for row in raw if row["relation"] in exclude and row[given] == node}
    assert known
    every = embeddings[table].neighbors(node, relation, 100, side)
    found = embeddings[table].neighbors(node, relation, 5, side, exclude=exclude)
    assert found == [of for of in every if of.id not in known][:5]


def test_a_relation_between_other_tables_leaves_out_nothing(exported: str) -> None:
    users = Embeddings.load(exported)["user"]
    with pytest.raises(UserError, match="exclude: relation follow does not lead between tables user and tweet"):
        users.neighbors("u3", "fav", exclude=["follow"])
    with pytest.raises(UserError, match=r"no relation named 'favs'; did you mean fav\?"):
        users.neighbors("u3", "fav", exclude=["favs"])
