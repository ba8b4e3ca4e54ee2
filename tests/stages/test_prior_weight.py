"""Another weight of `model.prior` than the trained one, at query time and at export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.command_line import twhin
from tests.conftest import SmallConfig, small_configs
from tests.export.exporting import changed
from tests.recommend.test_lists import read_lists
from tests.serving.running import serving
from tests.stages.test_evaluate import TABLES
from tests.stages.with_prior import REL, ROWS, SIDES, Run
from twhin_core import storage
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.export.manifest import read_export_manifest
from twhin_core.serving.version import Question, load
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.recommend import recommend, recommend_once
from twhin_core.stages.train import train

WEIGHTS = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 10.0]), st.floats(0, 10))
ENDS = [("fav", "rhs"), ("fav", "lhs"), ("follow", "rhs"), ("follow", "lhs")]
FORMATS = {"formats": ["parquet", "npy", "faiss"], "query_side": "fav"}


def make(folder: Path, model: dict[str, Any]) -> Run:
    config = small_configs(folder)(model=model, export=FORMATS, training={"num_epochs": 2})
    root = str(folder / "run")
    for stage in (prepare, train, export):
        stage(config, root)
    return Run(config, root)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make(tmp_path_factory.mktemp("prior"), {"prior": {}, "temperature": 0.5})


@pytest.fixture(scope="module")
def without_checkpoint(run: Run) -> str:
    root = str(shutil.copytree(run.root, f"{run.root}-exported"))
    shutil.rmtree(f"{root}/checkpoints")
    storage.remove(f"{root}/training/finished.json")
    return root


@pytest.fixture(scope="module")
def exported(run: Run) -> str:
    """The run with a prior of .3 in its export, and of 1.5 in its recommendations."""
    root = str(shutil.copytree(run.root, f"{run.root}-weighted"))
    export(changed(changed(run.config, "export", prior=0.3), "recommend", fav={"prior": 1.5}), root)
    return root


def assert_best(found: Any, run: Run, side: str, relation: str, node: int, weight: float | None) -> None:
    """That `found` is (id, score) of all candidates, best first."""
    end = SIDES.index(side)
    table, ids = TABLES[REL[relation]][end], run.ids(TABLES[REL[relation]][end])
    expected = {ids[other]: score for score, other in run.answers(side, REL[relation], node, weight)}
    assert dict(found) == pytest.approx(expected, rel=1e-4, abs=1e-4), table
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def given_table(relation: str, side: str) -> str:
    return TABLES[REL[relation]][SIDES.index("lhs" if side == "rhs" else "rhs")]


@settings(max_examples=20)
@given(weight=WEIGHTS, end=st.sampled_from(ENDS), node=st.integers(0, 29), kept=st.booleans())
def test_neighbors_and_scores_by_any_weight(
    run: Run, without_checkpoint: str, weight: float, end: tuple[str, str], node: int, kept: bool
) -> None:
    relation, side = end
    embeddings, table = Embeddings.load(run.root if kept else without_checkpoint), given_table(relation, side)
    name = run.ids(table)[node]
    found = embeddings[table].neighbors(name, relation, 100, side, prior=weight)  # type: ignore[arg-type]
    assert_best(found, run, side, relation, node, weight)
    lhs, rhs = node, (node + 7) % 30
    names = [run.ids(of)[row] for of, row in zip(TABLES[REL[relation]], (lhs, rhs), strict=True)]
    score = embeddings.score(relation, *names, prior=weight)
    for of in SIDES:
        expected = run.score(of, (lhs, REL[relation], rhs), weight)
        assert getattr(score, of).score == pytest.approx(expected, rel=1e-4, abs=1e-4)


@settings(max_examples=10)
@given(weight=WEIGHTS, node=st.integers(0, 39))
def test_the_index_answers_by_any_weight(run: Run, weight: float, node: int) -> None:
    pytest.importorskip("faiss")
    users = Embeddings.load(run.root)["user"]
    found = users.neighbors(run.ids("user")[node], "fav", 100, index=True, prior=weight)
    assert_best(found, run, "rhs", "fav", node, weight)
    assert f"the model's score (dot, prior {weight:g})" in users.describe("fav", index=True, prior=weight)


def test_an_index_with_the_prior_of_another_relation_answers_only_without_one(run: Run) -> None:
    pytest.importorskip("faiss")
    users, name = Embeddings.load(run.root)["user"], run.ids("user")[4]
    assert_best(users.neighbors(name, "follow", 100, index=True, prior=0), run, "rhs", "follow", 4, 0)
    with pytest.raises(UserError, match=r"^prior: the index of user ranks by inner product, without the prior of this"):
        users.neighbors(name, "follow", index=True, prior=0.5)


def test_an_export_has_the_weight_that_it_is_given_and_queries_take_it(run: Run, exported: str) -> None:
    pytest.importorskip("faiss")
    manifest = read_export_manifest(exported)
    assert manifest.prior == 0.3
    (entry,) = (of for of in manifest.tables if of.name == "user")
    assert [(of.relation, of.side, of.weight) for of in entry.priors] == [
        ("follow", "rhs", 0.3), ("follow", "lhs", 0.3), ("fav", "lhs", 0.3)
    ]  # fmt: skip
    column = pq.read_table(Path(exported, "embeddings/user")).sort_by("index")["prior"].to_pylist()
    expected = [[run.prior(of.side, REL[of.relation], row, 0.3) for of in entry.priors] for row in range(40)]
    np.testing.assert_allclose(column, expected, rtol=1e-5, atol=1e-6)
    queries, tweets = (np.load(Path(exported, f"embeddings/npy/{name}.npy")) for name in ("user.fav", "tweet"))
    scores = [[run.score("rhs", (user, 1, tweet), 0.3) for tweet in range(30)] for user in range(40)]
    np.testing.assert_allclose(queries @ tweets.T, scores, rtol=1e-4, atol=1e-5)
    for index in (False, True):
        users, name = Embeddings.load(exported)["user"], run.ids("user")[9]
        assert_best(users.neighbors(name, "fav", 100, index=index), run, "rhs", "fav", 9, 0.3)
        assert_best(users.neighbors(name, "fav", 100, index=index, prior=2), run, "rhs", "fav", 9, 2)
        assert "(dot, prior 0.3)" in users.describe("fav", index=index)
    score = Embeddings.load(exported).score("fav", run.ids("user")[9], run.ids("tweet")[4])
    assert score.rhs.score == pytest.approx(run.score("rhs", (9, 1, 4), 0.3), rel=1e-4)
    assert score.by == "the model's score (dot, prior 0.3)"


def test_an_export_without_popularity_leaves_it_to_the_checkpoint(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    root = str(shutil.copytree(run.root, tmp_path / "run"))
    export(changed(run.config, "export", prior=0), root)
    users, name = Embeddings.load(root)["user"], run.ids("user")[2]
    for index in (False, True):
        assert_best(users.neighbors(name, "fav", 100, index=index), run, "rhs", "fav", 2, 0)
    assert_best(users.neighbors(name, "fav", 100, prior=1), run, "rhs", "fav", 2, 1)
    with pytest.raises(UserError, match=r"^prior: the index of tweet"):
        users.neighbors(name, "fav", index=True, prior=1)
    version = load(root)
    assert not version.uses_index(version.query("user", "fav", None, 1), None), "the comparison can answer"
    version.close()
    shutil.rmtree(f"{root}/checkpoints")
    storage.remove(f"{root}/training/finished.json")
    with pytest.raises(UserError, match=r"^prior: cannot be 1, because the exported priors all are 0; export again"):
        Embeddings.load(root)["user"].neighbors(name, "fav", prior=1)


def test_an_export_of_an_earlier_release_refuses_what_it_does_not_tell(run: Run, without_checkpoint: str) -> None:
    root = str(shutil.copytree(without_checkpoint, f"{without_checkpoint}-earlier"))
    url = f"{root}/embeddings/manifest.json"
    manifest = storage.read_json(url)
    del manifest["prior"]
    for table in manifest["tables"]:
        for prior in table["priors"]:
            del prior["weight"]
    storage.write_json(url, manifest)
    users, name = Embeddings.load(root)["user"], run.ids("user")[2]
    assert_best(users.neighbors(name, "fav", 100), run, "rhs", "fav", 2, None)
    assert_best(users.neighbors(name, "fav", 100, prior=0), run, "rhs", "fav", 2, 0)
    with pytest.raises(UserError, match=r"^prior: cannot be 1, because the exported priors do not tell their weight"):
        users.neighbors(name, "fav", prior=1)


def test_lists_have_the_weight_of_their_section_or_else_of_the_export(run: Run, exported: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    ids = {name: run.ids(name) for name in ROWS}

    def check(folder: Path, weight: float | None) -> None:
        lists = read_lists(folder, ("vector", "index"))
        assert len(lists) == 40
        for row, name in enumerate(ids["user"]):
            known = {rhs for split in run.splits.values() for lhs, rel, rhs in split if (lhs, rel) == (row, 1)}
            best = [(ids["tweet"][of], score) for score, of in run.answers("rhs", 1, row, weight) if of not in known]
            assert dict(lists[name]) == pytest.approx(dict(best[:5]), rel=1e-4, abs=1e-4)

    cases: list[tuple[str, dict[str, Any], float | None]] = [
        (run.root, {}, None), (run.root, {"prior": 2.0}, 2), (run.root, {"prior": 0, "index": True}, 0),
        (exported, {}, 0.3), (exported, {"index": True}, 0.3), (exported, {"prior": 1}, 1),
    ]  # fmt: skip
    for number, (root, lists, weight) in enumerate(cases):
        recommend_once(root, "fav", {"k": 5, **lists}, str(tmp_path / str(number)))
        check(tmp_path / str(number), weight)
    root, config = str(shutil.copytree(run.root, tmp_path / "run")), changed(run.config, "recommend", fav={"k": 5})
    before = recommend(config, root)["fav"]
    after = recommend(changed(config, "recommend", fav={"k": 5, "prior": 3}), root)["fav"]
    assert after.made_from != before.made_from
    check(Path(root, "recommendations/fav"), 3)


def test_a_version_in_service_answers_by_any_weight(run: Run, exported: str) -> None:
    pytest.importorskip("faiss")
    for root, default in ((run.root, None), (exported, 0.3)):
        version = load(root)
        for (relation, side), weight in zip(ENDS * 2, (None, 0.0, 0.7, 3.0, 0.2, None, 0.0, 1.0), strict=True):
            query = version.query(given_table(relation, side), relation, side, weight)  # type: ignore[arg-type]
            by = default if weight is None else weight
            question = Question(query, version.candidates(query), by_index=version.uses_index(query, None))
            (answer,) = version.search(question, version.nodes(query.table, np.array([11])))
            names = version.vectors.ids(query.candidates).at(answer[1])
            assert_best(list(zip(names, answer[0], strict=True)), run, side, relation, 11, by)
            lhs, rhs = np.array([3, 5]), np.array([9, 2])
            edges = zip(lhs.tolist(), rhs.tolist(), strict=True)
            expected = [run.score(side, (one, REL[relation], other), by) for one, other in edges]
            assert version.vectors.scores(query, lhs, rhs) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        version.close()


def test_requests_have_the_weight_that_they_ask_for_or_of_the_section_or_of_the_export(run: Run, exported: str) -> None:
    pytest.importorskip("fastapi")
    user, tweet = run.ids("user")[6], run.ids("tweet")[5]
    with serving(exported) as server:
        for prior, weight in ((None, 1.5), (0, 0), (2, 2)):
            asked = {"relation": "fav", "ids": [user], "k": 100, "exclude": []} | (
                {} if prior is None else {"prior": prior}
            )
            _, answer = server.post("/recommend", asked)
            assert f"(dot, prior {weight:g})" in answer["by"]
            found = [(of["id"], of["score"]) for of in answer["answers"][0]["found"]]
            assert_best(found, run, "rhs", "fav", 6, weight)
        _, answer = server.get(f"/neighbors?table=user&ids={user}&relation=fav&k=100")
        found = [(of["id"], of["score"]) for of in answer["answers"][0]["found"]]
        assert_best(found, run, "rhs", "fav", 6, 0.3)
        for side in SIDES:
            _, answer = server.get(f"/score?relation=fav&lhs={user}&rhs={tweet}&side={side}&prior=0.9")
            assert answer["scores"][0]["score"] == pytest.approx(run.score(side, (6, 1, 5), 0.9), rel=1e-4)
        status, answer = server.post("/neighbors", {"table": "user", "ids": [user], "prior": 1})
        assert (status, answer["error"]) == (422, "prior: the cosine has none; name a relation")
        status, answer = server.post("/score", {"relation": "fav", "pairs": [{"lhs": "a", "rhs": "b"}], "prior": -1})
        assert (status, answer["error"]) == (422, "prior: Input should be greater than or equal to 0")


def test_the_commands_take_a_weight(run: Run, tmp_path: Path) -> None:
    user, tweet = run.ids("user")[3], run.ids("tweet")[8]
    found = twhin("neighbors", run.root, "user", user, "--relation", "fav", "-k", "30", "--prior", "2")
    assert "the model's score (dot, prior 2)" in found.stderr + found.stdout
    lines = [line.split("\t") for line in found.stdout.splitlines() if line.count("\t") == 1]
    assert_best([(name, float(score)) for name, score in lines], run, "rhs", "fav", 3, 2)
    scored = twhin("score", run.root, "fav", user, tweet, "--prior", "0", "--json")
    assert json.loads(scored.stdout)["ends"][0]["score"] == pytest.approx(run.score("rhs", (3, 1, 8), 0), rel=1e-4)
    done = twhin("recommend", run.root, "--relation", "fav", "--prior", "0", "-k", "4", "--output", tmp_path / "lists")
    assert done.returncode == 0, done.stderr
    assert len(read_lists(tmp_path / "lists")) == 40


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prior": -1}, r"^neighbors: prior: input should be greater than or equal to 0"),
        ({"prior": float("nan")}, r"^neighbors: prior: "),
        ({"prior": 11}, r"^neighbors: prior: input should be less than or equal to 10"),
        ({"prior": 1, "relation": None}, r"^prior: the cosine has none; name a relation"),
    ],
)
def test_a_weight_that_cannot_be_is_refused(run: Run, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Embeddings.load(run.root)["user"].neighbors(run.ids("user")[0], **{"relation": "fav", **given})


def test_a_model_without_a_prior_refuses_a_weight(small_config: SmallConfig, tmp_path: Path) -> None:
    run = make(tmp_path, {"prior": {"sides": ["lhs"]}})
    users = Embeddings.load(run.root)["user"]
    with pytest.raises(UserError, match=r"^prior: the model was trained without one for the rhs \(model\.prior\)"):
        users.neighbors(run.ids("user")[0], "fav", prior=1)
    with pytest.raises(UserError, match=r"recommend\.fav\.prior: needs model\.prior with the side rhs"):
        recommend_once(run.root, "fav", {"prior": 1}, str(tmp_path / "lists"))
    score = Embeddings.load(run.root).score("fav", run.ids("user")[1], run.ids("tweet")[2], prior=1)
    assert score.lhs.score == pytest.approx(run.score("lhs", (1, 1, 2), 1), rel=1e-4)
    assert score.rhs.score == pytest.approx(run.score("rhs", (1, 1, 2)), rel=1e-4), "it has none to weigh"
    with pytest.raises(UserError, match=r"export\.prior: needs model\.prior"):
        small_config(export={"prior": 0.5})
    with pytest.raises(UserError, match=r"recommend\.fav\.prior: needs model\.prior"):
        small_config(recommend={"fav": {"prior": 0.5}})
