"""The npy files, mapped into memory by numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.export.exporting import export_as, vocabulary, weights
from twhin_core.config import Config
from twhin_core.export import vector_set


def test_numpy_maps_the_vectors_and_the_ids_lie_beside(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_set, "BLOCK_BYTES", 11 * 4 * 8)
    _, root = trained
    export_as(trained, "npy")
    for table in ("user", "tweet"):
        vectors = np.load(f"{root}/embeddings/npy/{table}.npy", mmap_mode="r")
        assert isinstance(vectors, np.memmap)
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, weights(root, table))
        names = pq.read_table(Path(root, f"embeddings/npy/{table}.ids.parquet"))
        assert names["id"].to_pylist() == vocabulary(root, table)
        assert names["index"].to_pylist() == list(range(len(vectors)))
