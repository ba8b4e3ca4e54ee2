"""The test metrics of vectors that pq gives back, and the report that shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.export.exporting import changed, export_as
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.evaluation.measure import measure_rows
from twhin_core.stages.evaluate import evaluate
from twhin_core.vectors.rows import Rows, TensorRows

OPTIONS = {"subspaces": 2, "bits": 4}


def given_back(root: str, table: str) -> Rows:
    """The vectors as numpy decodes them from the exported files."""
    folder = Path(root, "embeddings/pq")
    codes = np.array(pq.read_table(folder / table)["code"].to_pylist(), np.uint8)[:, 0]
    first, second = np.load(folder / f"{table}.codebooks.npy")
    return TensorRows(torch.from_numpy(np.concatenate([first[codes & 15], second[codes >> 4]], 1)))


@pytest.mark.parametrize("evaluated", [True, False])
def test_the_manifest_has_the_metrics_of_the_exported_codes_beside_the_exact_ones(
    trained: tuple[Config, str], evaluated: bool
) -> None:
    config, root = trained
    exact = evaluate(config, root)["test"] if evaluated else None
    compared = export_as(trained, "pq", pq=OPTIONS).pq_metrics
    decoded = measure_rows(config, root, newest(root), {table: given_back(root, table) for table in ("user", "tweet")})
    assert compared["decoded"]["all"]["mrr"] == pytest.approx(decoded["all"]["mrr"])
    assert compared["decoded"]["fav"]["mrr"] == pytest.approx(decoded["fav"]["mrr"])
    exact = exact or evaluate(config, root)["test"]
    assert compared["exact"]["all"]["mrr"] == exact["all"]["mrr"]
    assert compared["exact"] != compared["decoded"]


def test_only_the_tables_that_are_quantized_are_compared_quantized(trained: tuple[Config, str]) -> None:
    config, root = trained
    compared = export_as(trained, "pq", pq=OPTIONS, tables=["tweet"]).pq_metrics
    tables = {"user": newest(root).rows("user"), "tweet": given_back(root, "tweet")}
    assert compared["decoded"]["all"]["mrr"] == pytest.approx(
        measure_rows(config, root, newest(root), tables)["all"]["mrr"]
    )


def test_the_report_says_what_was_exported(trained: tuple[Config, str]) -> None:
    config, root = trained
    evaluate(config, root)
    page = Path(root, "evaluation/report.html")
    before = page.read_text()
    export_as(trained, "parquet", "faiss", "pq", pq=OPTIONS)
    assert "recall@10 1.0000 of exact search" not in before
    assert "recall@10 1.0000 of exact search" in page.read_text()
    assert "2 subspaces of 4 bits" in page.read_text()


def test_without_held_out_edges_there_are_no_metrics(trained: tuple[Config, str]) -> None:
    config, root = trained
    manifest = storage.read_json(f"{root}/graph/manifest.json")
    manifest["splits"]["test"]["edges"] = 0
    storage.write_json(f"{root}/graph/manifest.json", manifest)
    assert export_as((changed(config, "export"), root), "pq", pq=OPTIONS).pq_metrics is None
