"""`model.prior` from training to exports, against degrees counted in plain loops."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import SmallConfig
from tests.evaluation.brute_force import BruteForce
from tests.export.exporting import changed as with_section
from tests.stages.test_evaluate import RELATIONS, TABLES, changed
from tests.stages.with_prior import REL, ROWS, SIDES, Run
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import newest, remove
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

MODELS = {
    "learned": {"prior": {}},
    "one side, fixed": {"prior": {"weight": 2, "sides": ["rhs"]}},
    "reciprocal cosine": {"prior": {}, "reciprocal": True, "comparator": "cos", "temperature": 0.2},
}


MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(small_config: SmallConfig, tmp_path: Path) -> MakeRun:
    def make(name: str = "run", **model: object) -> Run:
        config = small_config(model=model)
        root = str(tmp_path / name)
        prepare(config, root)
        train(config, root)
        return Run(config, root)

    return make


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_metrics_scores_and_neighbors_include_the_prior(make_run: MakeRun, model: dict[str, object]) -> None:
    run = make_run(**model)
    metrics = evaluate(changed(run.config, hits_at=[1, 3, 10], recall_at=[10, 20]), run.root)
    sizes = {side: [ROWS[tables[end]] for tables in TABLES] for end, side in enumerate(SIDES)}
    expected = BruteForce(run.splits, "test", sizes, run.score)
    for name, rel in RELATIONS.items():
        metrics["test"][name].pop("auc_reference", None)
        assert metrics["test"][name] == pytest.approx(expected.figures(rel, [1, 3, 10], [10, 20]), abs=1e-9)
    embeddings, ids = Embeddings.load(run.root), {name: run.ids(name) for name in ROWS}
    for side, relation, node in (("rhs", "fav", 3), ("lhs", "fav", 4), ("rhs", "follow", 5)):
        given, wanted = (TABLES[REL[relation]][SIDES.index(of)] for of in (SIDES[side == "lhs"], side))
        best = run.answers(side, REL[relation], node)[:7]
        found = embeddings[given].neighbors(ids[given][node], relation, k=7, side=side)
        assert [of.score for of in found] == pytest.approx([score for score, _ in best], rel=1e-4, abs=1e-5)
        assert [of.id for of in found] == [ids[wanted][other] for _, other in best]
    scores = embeddings.score("fav", ids["user"][2], ids["tweet"][9])
    for side, of in (("rhs", scores.rhs), ("lhs", scores.lhs)):
        assert of.score == pytest.approx(run.score(side, (2, 1, 9)), rel=1e-4, abs=1e-5)
        ranked = [other for _, other in run.answers(side, 1, 2 if side == "rhs" else 9)]
        assert of.rank == 1 + ranked.index(9 if side == "rhs" else 2)


def test_sampled_ranks_count_the_drawn_candidates_with_their_priors(make_run: MakeRun) -> None:
    """All rows drawn: as exact ranks."""
    run = make_run(prior={})
    exact = evaluate(run.config, run.root)["test"]
    sampled = evaluate(changed(run.config, candidates=30), run.root)["test"]
    for name in ("fav", "all", "follow"):
        assert sampled[name]["sampled_mrr_rhs"] <= 1
    assert sampled["fav"]["sampled_mrr_rhs"] == pytest.approx(exact["fav"]["mrr_rhs"], abs=1e-12)


def test_a_copy_as_the_previous_version_has_the_same_figures(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(prior={})
    shutil.copytree(run.root, tmp_path / "before")
    metrics = evaluate(changed(run.config, previous=str(tmp_path / "before")), run.root)
    for relation in RELATIONS:
        metrics["test"][relation].pop("auc_reference", None)
        if relation != "all":
            assert metrics["drift"]["relations"][relation]["answers@10"] == 1
        assert metrics["baselines"]["previous"][relation] == pytest.approx(metrics["test"][relation], abs=1e-12)


def test_weights_are_learned_apart_and_saved(make_run: MakeRun) -> None:
    learned = make_run(prior={"sides": ["rhs"]}).scorer.prior
    assert torch.equal(learned[:, 0], torch.zeros(2).double()), "no prior, no weight"
    assert len({0.5, *learned[:, 1].tolist()}) == 3


@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_exports_rank_as_the_model_does(make_run: MakeRun, comparator: str) -> None:
    """Without the checkpoint too: from the column of Parquet files, and by inner product with one more coordinate."""
    pytest.importorskip("faiss")
    run = make_run(prior={}, comparator=comparator, temperature=0.5)
    is_cos = comparator == "cos"
    settings = {"formats": ["parquet", "npy", "faiss"], "query_side": "fav", "normalize": is_cos}
    manifest = export(with_section(run.config, "export", **settings), run.root)
    columns = {of.name: [(prior.relation, prior.side) for prior in of.priors] for of in manifest.tables}
    assert columns == {
        "user": [("follow", "rhs"), ("follow", "lhs"), ("fav", "lhs")],
        "tweet": [("fav", "rhs")],
    }
    for table, ends in columns.items():
        found = pq.read_table(Path(run.root, "embeddings", table)).sort_by("index")
        assert found["embedding"].type.list_size == 8
        expected = [[run.prior(side, REL[name], row) for name, side in ends] for row in range(ROWS[table])]
        np.testing.assert_allclose(np.array(found["prior"].to_pylist()), np.array(expected), rtol=1e-5, atol=1e-6)

    queries, tweets = (_npy(run.root, name) for name in ("user.fav", "tweet"))
    assert queries.shape == (40, 9)
    np.testing.assert_array_equal(queries[:, -1], 1)
    expected = np.array([[run.score("rhs", (user, 1, tweet)) for tweet in range(30)] for user in range(40)])
    np.testing.assert_allclose(queries @ tweets.T, expected, rtol=1e-4, atol=1e-5)

    import faiss

    index = faiss.read_index(str(Path(run.root, "embeddings/faiss/tweet.index")))
    values, rows = index.search(queries, 30)
    np.testing.assert_allclose(values, -np.sort(-expected, axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), values, rtol=1e-4, atol=1e-5)
    assert manifest.formats["faiss"]["tweet"].prior.is_of("fav", "rhs")
    assert manifest.formats["npy"]["user"].prior is None, "one of three, which differ"

    ids, embeddings = {name: run.ids(name) for name in ROWS}, Embeddings.load(run.root)
    exact = [of.id for of in embeddings["user"].neighbors(ids["user"][3], "fav", k=9)]
    assert [of.id for of in embeddings["user"].neighbors(ids["user"][3], "fav", k=9, index=True)] == exact
    assert "model's score" in embeddings["user"].describe("fav", index=True)
    assert "model's score" not in embeddings["user"].describe("follow", index=True)
    similar = [of.id for of in embeddings["tweet"].neighbors(ids["tweet"][3], k=5, index=True)]
    vectors = run.vectors["tweet"] / (run.vectors["tweet"].norm(dim=1, keepdim=True) if is_cos else 1)
    by_product = (vectors @ vectors[3]).argsort(descending=True).tolist()
    assert similar == [ids["tweet"][row] for row in by_product if row != 3][:5], "the prior is left out"


def _npy(root: str, name: str) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = np.load(Path(root, f"embeddings/npy/{name}.npy"))
    return found


def test_parquet_files_alone_have_the_scores(make_run: MakeRun) -> None:
    run = make_run(prior={})
    export(run.config, run.root)
    name, before = run.ids("user")[7], Embeddings.load(run.root)
    expected = [before["user"].neighbors(name, relation, k=40, side=side) for relation, side in ENDS]
    remove(run.checkpoint)
    storage.remove(f"{run.root}/training/finished.json")
    after = Embeddings.load(run.root)
    for (relation, side), of in zip(ENDS, expected, strict=True):
        found = after["user"].neighbors(name, relation, k=40, side=side)
        assert [one.id for one in found] == [one.id for one in of]
        assert [one.score for one in found] == pytest.approx([one.score for one in of], rel=1e-5, abs=1e-6)


ENDS = (("fav", "rhs"), ("follow", "rhs"), ("follow", "lhs"))


def test_new_nodes_are_fitted_with_the_prior_of_their_edges(make_run: MakeRun) -> None:
    """As a trained node of that degree has it; its weights are learned and in no export."""
    run = make_run(prior={})
    export(run.config, run.root)
    vectors = Embeddings.load(run.root).trained.vectors
    for rel, (side, end) in itertools.product(range(2), (("lhs", 0), ("rhs", 1))):
        rows = np.arange(ROWS[TABLES[rel][end]])
        degrees = np.array([run.degrees[rel, side, row] for row in rows.tolist()])
        expected = [run.prior(side, rel, row) for row in rows.tolist()]
        np.testing.assert_allclose(vectors.prior_of_counts(side, rel, degrees), expected, rtol=1e-5, atol=1e-6)
    edges = pa.table({"lhs": ["new", "new"], "relation": ["fav", "follow"], "rhs": ["t1", "u2"]})
    assert Embeddings.load(run.root).embed("user", edges)["edges"].to_pylist() == [2]
    remove(run.checkpoint)
    storage.remove(f"{run.root}/training/finished.json")
    assert Embeddings.load(run.root).embed("user", edges, "mean").num_rows == 1
    with pytest.raises(UserError, match=r"weights of model\.prior are in the checkpoint of step \d+ alone, which no"):
        Embeddings.load(run.root).embed("user", edges)


def test_other_formats_carry_the_prior(make_run: MakeRun) -> None:
    pytest.importorskip("faiss")
    run = make_run(prior={"sides": ["rhs"]})
    faiss = {"tables": {"tweet": "ivf_pq"}, "ivf_pq": {"lists": 1}}
    settings = {"formats": ["pq", "vertex-vector-search", "faiss"], "tables": ["tweet", "user"], "pq": {"bits": 4}}
    with pytest.raises(UserError, match="256 centroids per subspace"):
        export(with_section(run.config, "export", **settings, faiss=faiss), run.root)
    export(with_section(run.config, "export", **settings), run.root)
    expected = [run.prior("rhs", 1, row) for row in range(30)]
    codes = pq.read_table(Path(run.root, "embeddings/pq/tweet")).sort_by("index")
    np.testing.assert_allclose(np.array(codes["prior"].to_pylist())[:, 0], expected, rtol=1e-5, atol=1e-6)
    (file,) = Path(run.root, "embeddings/vertex/tweet").glob("*.json")
    lines = {line["id"]: line["embedding"] for line in map(json.loads, file.read_text().splitlines())}
    ids = run.ids("tweet")
    np.testing.assert_allclose([lines[ids[row]][8] for row in range(30)], expected, rtol=1e-5, atol=1e-6)


def test_a_warm_start_takes_learned_weights_and_fresh_degrees(make_run: MakeRun, small_config: SmallConfig) -> None:
    plain, fixed, run = make_run("plain"), make_run("fixed", prior={"weight": 1}), make_run("prior", prior={})
    first = [[0.5, 0.5]] * 2
    for before, expected in ((plain, first), (fixed, first), (run, run.scorer.prior.tolist())):
        root = before.root + "-warm"
        config = small_config(
            model={"prior": {}},
            train_data={"limit": 100},
            training={"initial_checkpoint_dir": before.root, "num_train_steps": 1},
        )
        prepare(config, root)
        train(config, root)
        scorer = newest(root).scorer(config.model, config.model.relations)
        assert (scorer.prior.double() - torch.tensor(expected).double()).abs().max() <= 0.00501, "one step away"
        frequencies = newest(root).stored("degrees.count").read_whole()
        assert int(frequencies.sum()) == 200, "of 100 edges"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"prior": {"sides": ["head"]}}, r"model\.prior\.sides\.0"),
        ({"prior": {"sides": []}}, r"model\.prior\.sides"),
        ({"prior": {"sides": ["rhs", "rhs"]}}, r"model\.prior.*each may be listed once"),
        ({"prior": {"weight": -1}}, r"model\.prior\.weight"),
        ({"prior": {"weight": "learnt"}}, r"model\.prior\.weight"),
        ({"prior": {"weight": float("inf")}}, r"model\.prior\.weight"),
        ({"prior": {"weight": "0.5"}}, r"model\.prior\.weight"),
        ({"prior": {"side": ["rhs"]}}, r"model\.prior\.side"),
        ({"prior": 0.5}, r"model\.prior"),
        ({"prior": {}, "comparator": "l2"}, r"model.prior: needs comparator: dot or cos"),
        ({"prior": {}, "comparator": "squared_l2"}, r"model.prior: needs comparator: dot or cos"),
    ],
)
def test_mistakes_are_refused_in_the_config(small_config: SmallConfig, model: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_config(model=model)


def test_relations_without_training_edges_are_refused_before_work(small_config: SmallConfig, tmp_path: Path) -> None:
    relations = [
        {"name": "follow", "lhs": "user", "rhs": "user"},
        {"name": "fav", "lhs": "user", "rhs": "tweet"},
        {"name": "mute", "lhs": "user", "rhs": "user"},
        {"name": "hide", "lhs": "user", "rhs": "tweet"},
    ]
    root, config = str(tmp_path / "run"), small_config(model={"relations": relations, "prior": {}})
    with pytest.raises(UserError, match=r"^model\.prior: no training edges, .* in relation mute and 1 more; remove"):
        prepare(config, root)
    assert not Path(root, "graph/manifest.json").exists()
    prepare(small_config(model={"relations": relations}), root)
    with pytest.raises(UserError, match=r"^model\.prior: no training edges"):
        train(config, root)
    assert not Path(root, "checkpoints").exists()
