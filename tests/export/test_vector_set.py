"""What is exported besides the tables as they are: unit vectors, and a relation's queries."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import SmallConfig
from tests.export.exporting import changed, export_as, vocabulary, weights
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.export.vector_set import unit_rows
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.vectors.rows import TensorRows


def read(root: str, name: str) -> np.ndarray:
    return np.array(pq.read_table(Path(root, "embeddings", name))["embedding"].to_pylist(), np.float32)


def test_normalized_vectors_have_length_one_and_the_same_direction(trained: tuple[Config, str]) -> None:
    _, root = trained
    manifest = export_as(trained, "parquet", "npy", normalize=True)
    assert manifest.normalized
    expected = weights(root, "user") / np.linalg.norm(weights(root, "user"), axis=1, keepdims=True)
    np.testing.assert_allclose(read(root, "user"), expected, rtol=1e-6)
    np.testing.assert_array_equal(np.load(f"{root}/embeddings/npy/user.npy"), read(root, "user"))


def test_a_zero_row_has_no_direction(trained: tuple[Config, str]) -> None:
    vectors = torch.ones(5, 4)
    vectors[3] = 0
    rows = unit_rows(TensorRows(vectors), lambda place: f"row {place}")
    with pytest.raises(UserError, match="row 3 is zero and cannot be normalized"):
        rows.read(2, 5)
    with pytest.raises(UserError, match="row 3 is zero"):
        rows.gather(np.array([4, 3]))
    assert rows.read(0, 3).tolist() == [[0.5] * 4] * 3


@pytest.mark.parametrize("operator", ["translation", "diagonal", "affine"])
@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_a_dot_product_with_the_query_side_is_the_score_of_the_model(
    small_config: SmallConfig, tmp_path: Path, operator: str, comparator: str
) -> None:
    relations = [
        {"name": "follow", "lhs": "user", "rhs": "user"},
        {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": operator},
    ]
    config, root = small_config(model={"comparator": comparator, "relations": relations}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    manifest = export_as((config, root), "parquet", "npy", query_side="fav", normalize=comparator == "cos")
    scorer = newest(root).scorer(config.model, config.model.relations)
    users, tweets = (torch.from_numpy(weights(root, table)) for table in ("user", "tweet"))
    with torch.no_grad():
        scores = scorer.candidates("rhs", torch.ones(1, 40, dtype=torch.int64), users[None], tweets[None])[0].numpy()
    np.testing.assert_allclose(read(root, "user.fav") @ read(root, "tweet").T, scores, rtol=2e-4, atol=1e-6)
    np.testing.assert_array_equal(np.load(f"{root}/embeddings/npy/user.fav.npy"), read(root, "user.fav"))
    # Nobody takes it for the table: it has a name of its own, and the manifest says what it is.
    assert [table.name for table in manifest.tables] == ["user", "tweet"]
    entry = manifest.formats["parquet"]["user.fav"]
    assert (entry.table, entry.query_side, entry.rows) == ("user", "fav", 40)
    assert [entry.query_side for entry in manifest.formats["parquet"].values()] == [None, None, "fav"]
    assert pq.read_table(Path(root, "embeddings/user.fav"))["id"].to_pylist() == vocabulary(root, "user")


def test_a_relation_of_any_name_has_a_folder(small_config: SmallConfig, tmp_path: Path) -> None:
    relations = [{"name": "follow", "lhs": "user", "rhs": "user"}, {"name": "/a/b?", "lhs": "user", "rhs": "tweet"}]
    config = small_config(model={"relations": relations})
    raw = config.prepare.sources[0].path
    duckdb.execute(
        f"COPY (SELECT * REPLACE (replace(relation, 'fav', '/a/b?') AS relation) FROM '{raw}') "
        f"TO '{raw}.2' (FORMAT parquet)"
    )
    Path(f"{raw}.2").rename(raw)
    root = str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    manifest = export_as((config, root), "parquet", query_side="/a/b?")
    (file,) = manifest.formats["parquet"]["user.%2Fa%2Fb%3F"].files
    assert file.path == "embeddings/user.%2Fa%2Fb%3F/part-00000.parquet"
    assert pq.read_metadata(Path(root, file.path)).num_rows == 40


def test_a_relation_that_the_graph_lacks_is_named(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(model={"relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"},
                                               {"name": "*", "lhs": "user", "rhs": "user"}]})  # fmt: skip
    root = str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    with pytest.raises(UserError, match=r"export\.query_side: no relation named 'likes'; there are fav, follow"):
        export_as((config, root), "parquet", query_side="likes")


# --- the config --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ({"formats": ["parket"]}, "export.formats.0: input should be 'parquet', 'npy', 'faiss', "),
        ({"formats": []}, "export.formats: list should have at least 1 item"),
        ({"formats": ["npy", "npy"]}, "export.formats: each may be listed once; got npy, npy"),
        ({"formats": ["pq"], "pq": {"subspaces": 16}}, "export.pq.subspaces: 16 does not divide the dimension 8"),
        ({"formats": ["pq"], "pq": {"subspaces": 3}}, "export.pq.subspaces: 3 does not divide the dimension 8"),
        ({"formats": ["pq"], "pq": {"bits": 5}}, "export.pq.bits: input should be 4 or 8, got 5"),
        (
            {"formats": ["faiss"], "faiss": {"kind": "ivf_pq", "ivf_pq": {"subspaces": 5}}},
            "export.faiss.ivf_pq.subspaces: 5 does not divide the dimension 8",
        ),
        ({"pq": {}}, "export.pq: has no effect without pq in export.formats"),
        ({"projector": {}}, "export.projector: has no effect without tensorboard-projector in export.formats"),
        ({"formats": ["faiss"], "faiss": {"hnsw": {}}}, "export.faiss.hnsw: has no effect, no table has this kind"),
        (
            {"formats": ["faiss"], "faiss": {"tables": {"twet": "hnsw"}}},
            "export.faiss.tables: no table named 'twet'; there are tweet, user",
        ),
        (
            {"formats": ["faiss"], "tables": ["user"], "faiss": {"tables": {"tweet": "hnsw"}}},
            "export.faiss.tables: no table named 'tweet'; there are user",
        ),
        ({"query_side": "likes"}, "export.query_side: no relation named 'likes'; there are fav, follow"),
        ({"query_side": "fav", "formats": ["faiss"]}, "export.query_side: is written only as parquet or npy; add one"),
        (
            {"query_side": "fav", "normalize": True},
            "export.query_side: with the comparator dot, dot products are scores only with export.normalize: false",
        ),
    ],
)
def test_what_cannot_be_exported_is_said_at_once(
    small_config: SmallConfig, export: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as error:
        changed(small_config(), "export", **export)
    assert str(error.value).startswith(f"changed: {message}")


@pytest.mark.parametrize(
    ("comparator", "message"),
    [
        (
            "cos",
            "export.query_side: with the comparator cos, dot products are scores only with export.normalize: true",
        ),
        ("squared_l2", "export.query_side: the comparator squared_l2 scores by distance, not by dot product"),
        ("l2", "export.query_side: the comparator l2 scores by distance"),
    ],
)
def test_the_query_side_needs_scores_that_are_dot_products(
    small_config: SmallConfig, comparator: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        changed(small_config(model={"comparator": comparator}), "export", query_side="fav")
    assert str(error.value).startswith(f"changed: {message}")


def test_a_table_with_the_name_of_a_formats_folder_is_refused(small_config: SmallConfig) -> None:
    tables = [
        {"name": name, "embedding_dim": 8, "optimizer": {"sgd": {"lr": 0.1}}} for name in ("user", "tweet", "npy")
    ]
    config = small_config(model={"embeddings": {"tables": tables}})
    changed(config, "export", formats=["parquet", "faiss"])
    changed(config, "export", formats=["npy"])
    with pytest.raises(
        UserError, match=r"export\.formats: table npy and format npy would share the folder embeddings/npy"
    ):
        changed(config, "export", formats=["parquet", "npy"])
