"""`export.align`: the vectors of one run rotated onto those that another exported, by id, for every reader alike."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import SmallConfig
from tests.embeddings.test_embeddings import read, relation
from tests.evaluation.test_previous import smaller
from tests.export.exporting import ROWS, changed, check_refused
from tests.vectors.test_rotation import orthogonal
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import Checkpoint, newest
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.embeddings import Embeddings
from twhin_core.errors import Damaged, UserError
from twhin_core.evaluation.result import read_metrics
from twhin_core.export import shared_nodes
from twhin_core.export.manifest import MANIFEST
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.stages.verify import verify
from twhin_core.vectors.rows import TensorRows

__all__ = ["smaller"]  # a fixture

Floats = npt.NDArray[np.float64]
Trained = tuple[Config, str]
NOISE = 0.02


def by_id(root: str, table: str) -> dict[str, Floats]:
    return dict(zip(*read(root, table), strict=True))


def unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def polar(matrix: Floats) -> Floats:
    """The orthogonal factor of a matrix, by Newton's iteration: an SVD is what is under test."""
    for _ in range(100):
        matrix = (matrix + np.linalg.inv(matrix).T) / 2
    return matrix


def expected_rotation(now: dict[str, dict[str, Floats]], before: dict[str, dict[str, Floats]]) -> Floats:
    pairs = [(now[table][name], before[table][name]) for table in now for name in now[table].keys() & before[table]]
    return polar(sum(np.outer(unit(x), unit(y)) for x, y in pairs))


def mean_cosine(now: dict[str, Floats], before: dict[str, Floats]) -> float:
    return float(np.mean([unit(now[name]) @ unit(before[name]) for name in now.keys() & before.keys()]))


def matrix(root: str) -> Floats:
    (path,) = Path(root, "embeddings").glob("rotation-*.npy")
    found = np.load(path)
    assert found.dtype == np.float32
    return found.astype(np.float64)


@pytest.fixture
def before(trained: Trained, tmp_path: Path) -> str:
    """An exported copy of `trained`."""
    root = str(shutil.copytree(trained[1], tmp_path / "before"))
    export(trained[0], root)
    return root


@pytest.fixture
def planted(trained: Trained, before: str, monkeypatch: pytest.MonkeyPatch) -> Floats:
    """Rotates the checkpoint of `trained` away from `before`, with noise. Returns the matrix that leads back."""
    _, root = trained
    rng = np.random.default_rng(0)
    back = orthogonal(rng, 8)
    tables = {}
    for table, size in ROWS.items():
        rows = newest(root).rows(table).read(0, size)
        noise = torch.from_numpy(rng.normal(size=rows.shape).astype(np.float32))
        tables[table] = TensorRows(rows @ back.T + NOISE * rows.std() * noise)
    stored = Checkpoint.rows

    def rows_of(self: Checkpoint, table: str) -> Any:
        return tables[table] if self.url.startswith(f"{root}/") else stored(self, table)

    monkeypatch.setattr(Checkpoint, "rows", rows_of)
    return back.double().numpy()


def test_a_planted_rotation_is_undone(
    trained: Trained, before: str, planted: Floats, caplog: pytest.LogCaptureFixture
) -> None:
    config, root = trained
    old = {table: by_id(before, table) for table in ROWS}
    export(config, root)
    now = {table: by_id(root, table) for table in ROWS}
    with caplog.at_level(logging.INFO, "twhin"):
        manifest = export(changed(config, "export", align=before), root)
    found = matrix(root)
    assert found @ found.T == pytest.approx(np.eye(8), abs=1e-6)
    assert found == pytest.approx(expected_rotation(now, old), abs=1e-5)
    assert found == pytest.approx(planted, abs=0.05)
    assert manifest.aligned is not None
    assert (manifest.aligned.root, manifest.aligned.checkpoint) == (before, newest(before).step)
    assert manifest.aligned.rotation in manifest.files
    for table, size in ROWS.items():
        vectors, of = by_id(root, table), manifest.aligned.tables[table]
        assert vectors.keys() == now[table].keys()
        for name, vector in vectors.items():
            assert vector == pytest.approx(now[table][name] @ found, abs=1e-5)
        assert of.nodes == size
        assert of.cosine_before == pytest.approx(mean_cosine(now[table], old[table]), abs=1e-6)
        assert of.cosine_after == pytest.approx(mean_cosine(vectors, old[table]), abs=1e-6)
        assert abs(of.cosine_before) < 0.5 < 0.99 < of.cosine_after
        assert f"mean cosine {of.cosine_after:.4f} instead of {of.cosine_before:.4f}, of {size} nodes" in caplog.text


OPERATORS = {
    "dot, translation": {},
    "dot, affine and linear": {"relations": [
        {"name": "follow", "lhs": "user", "rhs": "user", "operator": "affine"},
        {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": "linear"},
    ]},
    "cos, reciprocal": {"comparator": "cos", "reciprocal": True, "temperature": 0.2},
    "l2": {"comparator": "l2"},
    "squared l2, affine": {"comparator": "squared_l2", "relations": [
        {"name": "follow", "lhs": "user", "rhs": "user", "operator": "affine"},
        {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": "identity"},
    ]},
    "dot, prior": {"prior": {}},
}  # fmt: skip

FORMATS = ["parquet", "npy", "faiss"]


def answers(root: str, with_index: bool) -> dict[str, list[tuple[str, float]] | float]:
    """What every kind of question is answered."""
    embeddings = Embeddings.load(root)
    users, tweets = embeddings["user"], embeddings["tweet"]
    found: dict[str, Any] = {
        "alike": users.neighbors("u3", k=50),
        "fav": users.neighbors("u3", "fav", 50),
        "follow": users.neighbors("u3", "follow", 50),
        "fans": tweets.neighbors("t4", "fav", 50, "lhs"),
        "rhs": [("score", embeddings.score("follow", "u1", "u2").rhs.score)],
        "lhs": [("score", embeddings.score("fav", "u1", "t2").lhs.score)],
    }
    if with_index:
        found["index of fav"] = users.neighbors("u3", "fav", 50, index=True)
        found["index of follow"] = users.neighbors("u3", "follow", 50, index=True)
        found["index alike"] = tweets.neighbors("t4", k=50, index=True)
    return found


@pytest.mark.parametrize("model", OPERATORS.values(), ids=OPERATORS)
def test_every_reader_gives_the_answers_of_the_export_without_it(
    model: dict[str, Any], small_config: SmallConfig, tmp_path: Path
) -> None:
    pytest.importorskip("faiss")
    root, other = str(tmp_path / "run"), str(tmp_path / "other")
    config = small_config(model=model, training={"num_epochs": 1})
    for stage in (prepare, train):
        stage(config, root)
    shutil.copytree(root, other)
    shutil.rmtree(f"{other}/checkpoints")
    shutil.rmtree(f"{other}/training")
    cold = changed(config, "training", seed=5)
    for stage in (train, export):
        stage(cold, other)
    export(changed(config, "export", formats=FORMATS), root)
    plain, vectors = answers(root, with_index=True), by_id(root, "user")
    manifest = export(changed(config, "export", formats=FORMATS, align=other), root)
    assert abs(matrix(root) - np.eye(8)).max() > 0.1
    assert manifest.aligned is not None
    assert all(of.cosine_after > of.cosine_before for of in manifest.aligned.tables.values())
    embeddings = Embeddings.load(root)["user"]
    assert embeddings["u3"] == pytest.approx(vectors["u3"] @ matrix(root), abs=1e-5)
    npy = np.load(f"{root}/embeddings/npy/user.npy")[:, :8]
    assert npy == pytest.approx(np.stack(read(root, "user")[1]), abs=1e-7)

    def check() -> None:
        for question, found in answers(root, with_index=True).items():
            expected = dict(plain[question])
            assert dict(found) == pytest.approx(expected, rel=1e-3, abs=1e-4), question
            assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)

    check()
    shutil.rmtree(f"{root}/checkpoints")
    check()


def test_queries_of_a_relation_are_rotated_too(trained: Trained, before: str, planted: Floats) -> None:
    config, root = trained
    export(changed(config, "export", query_side="fav"), root)
    plain = np.stack(read(root, "user.fav")[1]) @ np.stack(read(root, "tweet")[1]).T
    export(changed(config, "export", query_side="fav", align=before), root)
    rotated = np.stack(read(root, "user.fav")[1]) @ np.stack(read(root, "tweet")[1]).T
    assert rotated == pytest.approx(plain, abs=1e-4)


def test_unseen_nodes_are_embedded_among_the_rotated(trained: Trained, before: str, planted: Floats) -> None:
    config, root = trained
    rows = {"lhs": ["new", "new"], "relation": ["fav", "fav"], "rhs": ["t1", "t2"]}
    export(config, root)
    (plain,) = Embeddings.load(root).embed("user", pa.table(rows), "mean")["embedding"].to_pylist()
    export(changed(config, "export", align=before), root)
    (found,) = Embeddings.load(root).embed("user", pa.table(rows), "mean")["embedding"].to_pylist()
    assert found == pytest.approx(np.array(plain) @ matrix(root), abs=1e-5)
    with_translation = by_id(root, "tweet")
    mean = (with_translation["t1"] + with_translation["t2"]) / 2 - relation(root, "fav")
    assert found == pytest.approx(mean, abs=1e-5)


def test_pq_is_measured_where_the_checkpoint_has_its_vectors(trained: Trained, before: str, planted: Floats) -> None:
    pytest.importorskip("faiss")
    config, root = trained
    settings = {"formats": ["pq"], "pq": {"subspaces": 8, "bits": 4}}
    plain = export(changed(config, "export", **settings), root).pq_metrics
    found = export(changed(config, "export", **settings, align=before), root).pq_metrics
    assert plain is not None
    assert found is not None
    assert found["exact"] == plain["exact"]
    for figures in (plain, found):
        assert figures["decoded"]["all"]["mrr"] == pytest.approx(figures["exact"]["all"]["mrr"], abs=0.03)


@pytest.mark.parametrize("normalize", [False, True])
def test_nodes_are_matched_by_id_whatever_their_rows(trained: Trained, smaller: Trained, normalize: bool) -> None:
    config, root = trained
    export(changed(smaller[0], "export", rows_per_file=7), smaller[1])
    old = {table: by_id(smaller[1], table) for table in ROWS}
    export(config, root)
    now = {table: by_id(root, table) for table in ROWS}
    aligned = export(changed(config, "export", align=smaller[1], normalize=normalize), root).aligned
    assert matrix(root) == pytest.approx(expected_rotation(now, old), abs=1e-4)
    assert aligned is not None
    for table in ROWS:
        both = now[table].keys() & old[table].keys()
        assert 0 < len(both) < ROWS[table]
        assert aligned.tables[table].nodes == len(both)
        assert aligned.tables[table].cosine_after == pytest.approx(
            mean_cosine(by_id(root, table), old[table]), abs=1e-5
        )


def test_vectors_are_read_block_by_block(
    trained: Trained, before: str, planted: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    whole = export(changed(config, "export", align=before), root).aligned
    kept = matrix(root)
    shutil.rmtree(f"{root}/embeddings")
    monkeypatch.setattr(shared_nodes, "VECTOR_BYTES_PER_GROUP", 7 * 4 * 8)
    gather, read = TensorRows.gather, []

    def gathered(self: TensorRows, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        read.append(len(rows))
        return gather(self, rows)

    monkeypatch.setattr(TensorRows, "gather", gathered)
    in_blocks = export(changed(config, "export", align=before), root).aligned
    assert matrix(root) == pytest.approx(kept, abs=1e-6)
    assert (sum(read), max(read)) == (70, 7), "each row once"
    assert whole is not None
    assert in_blocks is not None
    for table in ROWS:
        assert in_blocks.tables[table].cosine_after == pytest.approx(whole.tables[table].cosine_after, abs=1e-9)


def test_versions_in_a_chain_are_aligned_with_what_was_exported(trained: Trained, before: str, tmp_path: Path) -> None:
    """The third version follows the second's export, which follows the first's, not the second's checkpoint."""
    config, root = trained
    roots = [before, root, str(shutil.copytree(root, tmp_path / "third"))]
    for seed, of in enumerate(roots[1:], 1):
        shutil.rmtree(f"{of}/checkpoints")
        shutil.rmtree(f"{of}/training")
        train(changed(config, "training", seed=seed), of)
    export(changed(changed(config, "training", seed=1), "export", align=roots[0]), roots[1])
    third = changed(config, "training", seed=2)
    export(third, roots[2])
    now = {table: by_id(roots[2], table) for table in ROWS}
    export(changed(third, "export", align=roots[1]), roots[2])
    exported = {table: by_id(roots[1], table) for table in ROWS}
    assert matrix(roots[2]) == pytest.approx(expected_rotation(now, exported), abs=1e-4)


def test_a_table_of_the_earlier_export_is_enough(trained: Trained, before: str, planted: Floats) -> None:
    config, root = trained
    export(changed(config, "export", tables=["tweet"]), before)
    aligned = export(changed(config, "export", align=before), root).aligned
    assert aligned is not None
    assert set(aligned.tables) == {"tweet"}
    assert mean_cosine(by_id(root, "user"), dict(zip(read(root, "user")[0], users_of(before), strict=True))) > 0.9


def users_of(root: str) -> Floats:
    return newest(root).rows("user").read(0, 40).double().numpy()


def test_once_fitted_it_needs_the_earlier_version_no_more(
    trained: Trained, before: str, planted: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    first = export(changed(config, "export", align=before), root)
    assert first.aligned is not None
    written = [*Path(root, "embeddings/user").iterdir(), Path(root, first.aligned.rotation.path)]
    times = {path: path.stat().st_mtime_ns for path in written}
    shutil.rmtree(before)
    second = export(changed(config, "export", align=before, formats=["parquet", "npy"]), root)
    assert second.aligned == first.aligned
    assert {path: path.stat().st_mtime_ns for path in times} == times
    third = export(changed(config, "export", formats=["parquet"]), root)
    assert third.aligned is None
    assert not list(Path(root, "embeddings").glob("rotation-*"))
    np.testing.assert_array_equal(np.stack(read(root, "user")[1]), users_of(root))
    with pytest.raises(UserError, match=r"export\.align: .*before has no embeddings"):
        export(changed(config, "export", align=before), root)


def other(config: Config, root: str, **sections: Any) -> None:
    shutil.rmtree(root)
    tree = config.model_dump(mode="json", exclude_unset=True)
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    made = config_file.validate(Config, tree, "other")
    for stage in (prepare, train, export):
        stage(made, root)


def not_exported(config: Config, root: str, folder: Path) -> None:
    shutil.rmtree(f"{root}/embeddings")


def only_npy(config: Config, root: str, folder: Path) -> None:
    export(changed(config, "export", formats=["npy"]), root)


def other_dim(config: Config, root: str, folder: Path) -> None:
    url = storage.join(root, MANIFEST)
    storage.write_json(url, storage.read_json(url) | {"dim": 16})


def other_tables(config: Config, root: str, folder: Path) -> None:
    url = storage.join(root, MANIFEST)
    manifest = storage.read_json(url)
    tables = [table | {"name": f"old_{table['name']}"} for table in manifest["tables"]]
    storage.write_json(url, manifest | {"tables": tables})


def other_ids(config: Config, root: str, folder: Path) -> None:
    raw = pa.table({"lhs": ["x1", "x2"] * 20, "relation": ["fav"] * 40, "rhs": [f"y{row}" for row in range(40)]})
    pq.write_table(raw, folder / "other.parquet")
    sources = [{"path": str(folder / "other.parquet"), "relation_column": "relation"}]
    relations = [{"name": "fav", "lhs": "user", "rhs": "tweet"}]
    model = config.model.model_dump(mode="json", exclude_unset=True) | {"relations": relations}
    other(config, root, prepare={"sources": sources, "split": None}, model=model)


MISTAKES = {
    "not exported": (not_exported, r"export\.align: .*before has no embeddings; run `twhin export` there first"),
    "not as parquet": (only_npy, r"export\.align: .*before was exported as npy; add parquet"),
    "another dim": (other_dim, r"export\.align: the vectors of .*before have 16 dimensions, those of this run 8"),
    "no table": (other_tables, r"export\.align: .*before has exported none of this run's tables \(user, tweet\)"),
    "no node": (other_ids, r"export\.align: .*before has exported none of this run's nodes \(user, tweet\)"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_aligned_is_refused_and_the_export_stays(
    name: str, trained: Trained, before: str, tmp_path: Path
) -> None:
    config, root = trained
    export(config, root)
    spoil, message = MISTAKES[name]
    spoil(config, before, tmp_path)
    check_refused(changed(config, "export", align=before), root, message)


@pytest.mark.parametrize("name", sorted(set(MISTAKES) - {"no node"}))
def test_most_of_it_is_refused_before_anything_is_prepared(
    name: str, trained: Trained, before: str, tmp_path: Path
) -> None:
    config, _ = trained
    spoil, message = MISTAKES[name]
    spoil(config, before, tmp_path)
    with pytest.raises(UserError, match=message):
        prepare(changed(config, "export", align=before), str(tmp_path / "fresh"))
    assert not Path(tmp_path, "fresh/graph/manifest.json").exists()


@pytest.mark.parametrize("operator", ["diagonal", "complex_diagonal"])
def test_operators_that_do_not_commute_are_refused_by_the_config(small_config: SmallConfig, operator: str) -> None:
    relations = [
        {"name": "follow", "lhs": "user", "rhs": "user"},
        {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": operator},
    ]
    message = rf"export\.align: relation fav has the operator {operator}, which does not commute with rotations"
    with pytest.raises(UserError, match=message):
        small_config(model={"relations": relations}, export={"align": "before"})


def test_previous_needs_a_previous_graph(small_config: SmallConfig) -> None:
    with pytest.raises(UserError, match=r"export\.align: previous needs prepare\.previous"):
        small_config(export={"align": "previous"})


def test_a_damaged_matrix_is_found(trained: Trained, before: str, planted: Floats) -> None:
    config, root = trained
    manifest = export(changed(config, "export", align=before), root)
    assert manifest.aligned is not None
    path = Path(root, manifest.aligned.rotation.path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match="does not match its checksum"):
        Embeddings.load(root)
    faults = {part.name: part.faults for part in verify(root) if part.faults}
    assert set(faults) == {manifest.aligned.rotation.path}


def test_drift_is_that_of_the_rotated_vectors(trained: Trained, before: str, planted: Floats) -> None:
    config, root = trained
    compared = changed(config, "evaluation", previous=before)
    raw = evaluate(compared, root)["drift"]
    found = evaluate(changed(compared, "export", align=before), root)["drift"]
    assert (raw["aligned"], found["aligned"]) == (False, True)
    for table in ROWS:
        one, other = (of["tables"][table]["all"] for of in (raw, found))
        assert abs(one["cosine"]) < 0.5 < 0.99 < other["cosine"]
        assert other["distance"] < 0.2 < one["distance"]
        assert other["neighbors@10"] == one["neighbors@10"]
    for relation_name in ("follow", "fav"):
        of = found["relations"][relation_name]
        assert of["answers@10"] == raw["relations"][relation_name]["answers@10"]
    elsewhere = changed(compared, "export", align="some/other/run")
    assert evaluate(elsewhere, root)["drift"] == raw


def test_the_report_says_what_was_aligned(trained: Trained, before: str, planted: Floats) -> None:
    config, root = trained
    config = changed(config, "export", align=before)
    evaluate(config, root)
    export(config, root)
    assert read_metrics(root) is not None
    page = Path(root, "evaluation/report.html").read_text()
    assert "All vectors were rotated together onto those that" in page
    assert "mean cosine, rotated" in page
