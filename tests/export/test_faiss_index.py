"""The indices, loaded by faiss: exact ones answer as a brute force does, and the manifest says what the others find."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.export.exporting import export_as, vocabulary, weights
from twhin_core.config import Config
from twhin_core.config.export import Export
from twhin_core.errors import UserError
from twhin_core.export import faiss_index, fits, recall
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

Floats = npt.NDArray[np.float32]


def brute_force(scores: Floats, k: int) -> list[list[int]]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()


def with_comparator(small_config: SmallConfig, tmp_path: Path, comparator: str) -> tuple[Config, str]:
    config, root = small_config(model={"comparator": comparator}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    return config, root


@pytest.mark.parametrize("comparator", ["dot", "cos", "l2"])
def test_a_flat_index_answers_as_a_brute_force_does(small_config: SmallConfig, tmp_path: Path, comparator: str) -> None:
    run = with_comparator(small_config, tmp_path, comparator)
    manifest = export_as(run, "faiss")
    index = faiss.read_index(f"{run[1]}/embeddings/faiss/tweet.index")
    queries, vectors = weights(run[1], "user"), weights(run[1], "tweet")
    if comparator == "l2":
        scores = -np.linalg.norm(queries[:, None] - vectors[None], axis=2)
    else:
        lengths = np.linalg.norm(vectors, axis=1) if comparator == "cos" else 1
        scores = queries @ vectors.T / lengths
    assert index.search(queries, 5)[1].tolist() == brute_force(scores, 5)
    names = pq.read_table(f"{run[1]}/embeddings/faiss/tweet.ids.parquet")
    assert names["id"].to_pylist() == vocabulary(run[1], "tweet")
    figures = manifest.formats["faiss"]["tweet"].figures
    metric = {"dot": "inner_product", "cos": "cosine", "l2": "l2"}[comparator]
    assert figures == {"kind": "flat", "metric": metric, "recall@10": 1.0, "queries": 200}


def test_each_table_has_the_kind_asked_for_and_is_saved_with_its_settings(trained: tuple[Config, str]) -> None:
    _, root = trained
    options = {
        "kind": "hnsw",
        "tables": {"tweet": "flat"},
        "hnsw": {"links": 4, "ef_construction": 10, "ef_search": 33},
    }
    manifest = export_as(trained, "faiss", faiss=options)
    user, tweet = (faiss.read_index(f"{root}/embeddings/faiss/{table}.index") for table in ("user", "tweet"))
    assert (type(user), type(tweet)) == (faiss.IndexHNSWFlat, faiss.IndexFlatIP)
    assert (user.ntotal, tweet.ntotal) == (40, 30)
    assert (user.hnsw.nb_neighbors(1), user.hnsw.efConstruction, user.hnsw.efSearch) == (4, 10, 33)
    figures = {name: entry.figures for name, entry in manifest.formats["faiss"].items()}
    assert (figures["user"]["kind"], figures["tweet"]["kind"]) == ("hnsw", "flat")
    assert 0 < figures["user"]["recall@10"] <= 1


def random_run(folder: Path, small_config: SmallConfig, rows: int, **table: object) -> tuple[Config, str]:
    """A run of one table that was trained on random edges given as indices."""
    rng = np.random.default_rng(0)
    edges = {side: rng.integers(rows, size=4 * rows) for side in ("lhs", "rhs")}
    pq.write_table(pa.table({**edges, "rel": np.zeros(4 * rows, np.int32)}), folder / "edges.parquet")
    given = {"name": "node", "num_embeddings": rows, "embedding_dim": 8, "optimizer": {"sgd": {"lr": 0.1}}, **table}
    config = small_config(
        prepare=None,
        model={"embeddings": {"tables": [given]}, "relations": [{"name": "near", "lhs": "node", "rhs": "node"}]},
        train_data={"data_root": str(folder / "edges.parquet")},
        training={"num_epochs": 1, "num_train_steps": 3},
    )
    root = str(folder / "run")
    train(config, root)
    return config, root


def share_found(run: tuple[Config, str], index: Any) -> float:
    """The share of the 10 nearest nodes, by a brute force, that an index finds; what pyarrow reads of both."""
    export_as(run, "parquet")
    nodes = np.array(pq.read_table(f"{run[1]}/embeddings/node")["embedding"].to_pylist(), np.float32)
    (relation,) = pq.read_table(f"{run[1]}/embeddings/relations.parquet")["embedding"].to_pylist()
    queries = nodes + np.array(relation, np.float32)  # the relation is a translation
    exact, found = brute_force(queries @ nodes.T, 10), index.search(queries, 10)[1].tolist()
    share = float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]))
    assert 0.2 < share < 0.95, "else the test says nothing"
    return share


def test_the_recall_of_an_ivf_pq_index_is_what_a_brute_force_finds(small_config: SmallConfig, tmp_path: Path) -> None:
    run = random_run(tmp_path, small_config, 400)
    options = {"kind": "ivf_pq", "ivf_pq": {"lists": 7, "probes": 3, "subspaces": 4}}
    figures = export_as(run, "faiss", faiss=options).formats["faiss"]["node"].figures
    index = faiss.read_index(f"{run[1]}/embeddings/faiss/node.index")
    assert (type(index), index.nlist, index.nprobe, index.pq.M, index.ntotal) == (faiss.IndexIVFPQ, 7, 3, 4, 400)
    share = share_found(run, index)
    assert figures["recall@10"] == pytest.approx(share, abs=0.08)  # of 200 of the 400 nodes, drawn at random


@pytest.mark.parametrize(
    ("settings", "rows", "expected"),
    [
        (None, 1, "flat"),
        (None, 1_000_000, "flat"),
        (None, 1_000_001, "opq_ivf_pq"),
        ({}, 10**9, "opq_ivf_pq"),
        ({"kind": "auto"}, 10**6, "flat"),
        ({"kind": "flat"}, 10**9, "flat"),
        ({"kind": "hnsw"}, 10**9, "hnsw"),
        ({"kind": "ivf_pq"}, 300, "ivf_pq"),
        ({"kind": "opq_ivf_pq"}, 300, "opq_ivf_pq"),
        ({"tables": {"node": "hnsw"}}, 10**9, "hnsw"),
        ({"tables": {"other": "hnsw"}}, 10**9, "opq_ivf_pq"),
        ({"kind": "hnsw", "tables": {"node": "auto"}}, 10**9, "opq_ivf_pq"),
    ],
)
def test_only_large_tables_are_compressed_by_default(settings: Any, rows: int, expected: str) -> None:
    export = Export.model_validate({"formats": ["faiss"], "faiss": settings})
    assert fits.index_kind(export, "node", rows) == expected


@pytest.mark.parametrize(
    ("dim", "rows", "subspaces", "expected"),
    [
        (128, 10**9, 32, "OPQ32_128,IVF65536_HNSW32,PQ32"),  # 4 · 31,622 lists are too many
        (128, 1_000_001, 32, "OPQ32_128,IVF4000_HNSW32,PQ32"),
        (64, 1_000_001, 16, "OPQ16_64,IVF4000_HNSW32,PQ16"),
        (129, 10**8, 33, "Pad132,OPQ33_132,IVF40000_HNSW32,PQ33"),
        (9, 400, 3, "OPQ3_9,IVF10_HNSW32,PQ3"),
        (13, 400, 4, "Pad16,OPQ4_16,IVF10_HNSW32,PQ4"),
    ],
)
def test_the_string_is_one_that_faiss_makes_an_index_from(dim: int, rows: int, subspaces: int, expected: str) -> None:
    assert faiss_index.factory(dim, fits.index_lists(Export(), rows), subspaces) == expected
    index = faiss.index_factory(dim, expected, faiss.METRIC_INNER_PRODUCT)
    assert (index.d, faiss.extract_index_ivf(index).metric_type) == (dim, faiss.METRIC_INNER_PRODUCT)


def test_a_large_table_is_compressed_and_its_recall_is_what_a_brute_force_finds(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fits, "LARGE_TABLE", 399)
    run = random_run(tmp_path, small_config, 400)
    figures = export_as(run, "faiss", faiss={"ivf_pq": {"probes": 5}}).formats["faiss"]["node"].figures
    assert (figures["kind"], figures["factory"]) == ("opq_ivf_pq", "OPQ2_8,IVF10_HNSW32,PQ2")
    assert "WARNING" not in capfd.readouterr().err
    index = faiss.read_index(f"{run[1]}/embeddings/faiss/node.index")
    assert (type(index), index.ntotal, faiss.extract_index_ivf(index).nprobe) == (faiss.IndexPreTransform, 400, 5)
    share = share_found(run, index)
    assert figures["recall@10"] == pytest.approx(share, abs=0.08)


def test_a_rotation_finds_more_where_few_coordinates_vary() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((1000, 8)).astype(np.float32)
    drawn[:, 4:] /= 20  # one of two subspaces has nearly all that product quantization must keep
    best, recall = brute_force(drawn[:100] @ drawn.T, 10), {}
    for kind in ("ivf_pq", "opq_ivf_pq"):
        if kind == "ivf_pq":
            index = faiss_index.ivf_pq(faiss, 8, 2, 2, faiss.METRIC_INNER_PRODUCT)
        else:
            index = faiss.index_factory(8, faiss_index.factory(8, 2, 2), faiss.METRIC_INNER_PRODUCT)
        faiss_index.train(faiss, index, drawn)
        index.add(drawn)
        faiss.extract_index_ivf(index).nprobe = 2
        found = index.search(drawn[:100], 10)[1].tolist()
        recall[kind] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best, found, strict=True)])
    assert recall["opq_ivf_pq"] > recall["ivf_pq"] + 0.05


def test_what_was_not_found_and_what_is_as_good(trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three queries of two rows each: all of the best, one of them, and nothing."""
    from twhin_core.checkpoints.checkpoint import newest
    from twhin_core.export.vector_set import TrainedRun, open_vector_sets
    from twhin_core.graph.manifest import read_schema

    config, root = trained
    _, tweet = open_vector_sets(TrainedRun(config, root, newest(root), read_schema(config, root)))
    monkeypatch.setattr(recall, "K", 2)
    monkeypatch.setattr(recall, "QUERIES", 3)
    queries = recall.make_queries(tweet).numpy()
    best = brute_force(queries @ weights(root, "tweet").T, 30)
    found = np.array([best[0][1::-1], [best[1][0], best[1][2]], [-1, -1]])
    assert recall.measure(tweet, False, lambda _: found) == (pytest.approx((2 + 1 + 0) / 6), 3)


def test_rows_that_no_id_names_are_not_in_the_index(small_config: SmallConfig, tmp_path: Path) -> None:
    named = [3, 4, 7, 11, 12, 19]
    names = pa.table({"index": named, "id": [f"n{row}" for row in named]})
    (tmp_path / "vocab").mkdir()
    pq.write_table(names, tmp_path / "vocab/part.parquet")
    run = random_run(tmp_path, small_config, 40, vocab=str(tmp_path / "vocab"))
    for kind in ("flat", "hnsw"):
        manifest = export_as(run, "faiss", "npy", faiss={"kind": kind})
        index = faiss.read_index(f"{run[1]}/embeddings/faiss/node.index")
        vectors = np.load(f"{run[1]}/embeddings/npy/node.npy")
        found = index.search(vectors, 6)[1]
        assert np.sort(found, axis=1).tolist() == [named] * 6
        assert [[named[place] for place in row] for row in brute_force(vectors @ vectors.T, 6)] == found.tolist()
        assert manifest.formats["faiss"]["node"].figures["recall@10"] == 1.0
        assert pq.read_table(f"{run[1]}/embeddings/faiss/node.ids.parquet")["index"].to_pylist() == named


def test_fewer_rows_than_centroids_are_refused_before_anything_is_written(trained: tuple[Config, str]) -> None:
    message = r"export\.faiss: ivf_pq with 256 centroids per subspace needs at least as many rows, but tweet has 30;"
    with pytest.raises(UserError, match=message):
        export_as(trained, "parquet", "faiss", faiss={"tables": {"tweet": "ivf_pq"}})
    assert not Path(trained[1], "embeddings").exists()
    with pytest.raises(UserError, match="ivf_pq with 41 lists needs at least as many rows, but user has 40"):
        export_as(trained, "faiss", faiss={"tables": {"user": "ivf_pq"}, "ivf_pq": {"lists": 41}})


@pytest.mark.parametrize("format_name", ["faiss", "pq"])
def test_without_the_library_one_line_says_so(
    trained: tuple[Config, str], format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        UserError, match=r"need the library faiss, which is not installed: pip install 'twhin\[faiss\]'"
    ):
        export_as(trained, "parquet", format_name)
    assert not Path(trained[1], "embeddings").exists()
