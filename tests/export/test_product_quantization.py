"""Product-quantized vectors: decoded by numpy alone and by faiss, from the files."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.export.exporting import export_as, vocabulary, weights
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.export import product_quantization
from twhin_core.export.product_quantization import decoded_rows
from twhin_core.vectors.rows import TensorRows


def read(root: str, table: str) -> tuple[np.ndarray, np.ndarray]:
    """codebooks float32 [subspaces, centroids, part] and codes uint8 [rows, bytes]."""
    folder = Path(root, "embeddings/pq", table)
    found = pq.read_table(folder)
    assert found["id"].to_pylist() == vocabulary(root, table)
    return np.load(f"{folder}.codebooks.npy"), np.array(found["code"].to_pylist(), np.uint8)


def test_a_vector_is_given_back_by_the_nearest_centroids_of_its_parts(trained: tuple[Config, str]) -> None:
    _, root = trained
    manifest = export_as(trained, "pq", pq={"subspaces": 4, "bits": 4}, rows_per_file=7)
    codebooks, codes = read(root, "user")
    assert (codebooks.shape, codes.shape) == ((4, 16, 2), (40, 2))
    nibbles = np.stack([codes & 15, codes >> 4], 2).reshape(40, 4)  # two sub-spaces a byte, the low half first
    parts = weights(root, "user").reshape(40, 4, 2)
    distances = ((parts[:, :, None] - codebooks[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(nibbles, distances.argmin(-1))
    decoded = codebooks[np.arange(4), nibbles].reshape(40, 8)
    own = faiss.ProductQuantizer(8, 4, 4)
    faiss.copy_array_to_vector(codebooks.ravel(), own.centroids)
    np.testing.assert_array_equal(own.decode(codes), decoded)
    figures = manifest.formats["pq"]["user"].figures
    exact, packed = 40 * 8 * 4, 40 * 2 + 4 * 16 * 2 * 4
    assert figures == {
        "subspaces": 4, "bits": 4, "float_bytes": exact, "bytes": packed, "ratio": round(exact / packed, 2),
    }  # fmt: skip


def test_a_byte_a_subspace_and_as_many_centroids_as_rows_give_every_vector_back(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 rows of each table, 16 centroids: nothing is lost."""
    import torch

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    codebooks = np.stack([vectors[:256, :4], vectors[:256, 4:]])
    rows = decoded_rows(TensorRows(torch.from_numpy(vectors)), codebooks)
    assert (rows.size, rows.dim) == (300, 8)
    np.testing.assert_array_equal(rows.read(0, 256).numpy(), vectors[:256])
    picked = np.array([5, 299, 5])
    nearest = [((vectors[picked][:, None, part] - codebooks[None, i]) ** 2).sum(-1).argmin(1)
               for i, part in enumerate((slice(0, 4), slice(4, 8)))]  # fmt: skip
    expected = np.concatenate([codebooks[i][near] for i, near in enumerate(nearest)], 1)
    np.testing.assert_array_equal(rows.gather(picked).numpy(), expected)


def test_fewer_rows_than_centroids_are_refused(trained: tuple[Config, str]) -> None:
    with pytest.raises(UserError, match=r"export\.pq\.bits: 8 bits need 256 rows, but user has 40"):
        export_as(trained, "parquet", "pq")
    assert not Path(trained[1], "embeddings").exists()


@pytest.mark.parametrize(("dim", "subspaces"), [(8, 1), (12, 3), (64, 8), (100, 25), (200, 25)])
def test_by_default_an_eighth_of_the_dim_or_a_quarter(dim: int, subspaces: int) -> None:
    assert product_quantization.default_subspaces(dim) == subspaces
