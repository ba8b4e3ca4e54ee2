"""What was exported stands in the report, with its bytes and its price."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from tests.report.made_exports import write_exports
from tests.report.made_metrics import made_metrics
from tests.report.page import Page
from twhin_core.evaluation.metrics import names
from twhin_core.report.write import write_report


def page(config: SmallConfig, root: Path) -> Page:
    metrics = made_metrics(["follow", "fav"], names(config().evaluation))
    write_report(str(root / "report.html"), metrics, config(), str(root))
    return Page((root / "report.html").read_text())


def test_every_format_has_its_bytes_and_its_quality(small_config: SmallConfig, tmp_path: Path) -> None:
    write_exports(tmp_path, 4321, "user", "fav")
    rows = page(small_config, tmp_path).rows
    size = ["40", "2", "3.125 KiB", "80.0"]
    assert ["user", "parquet", *size, "exact"] in rows
    assert ["user, queries of fav", "parquet", *size, "exact"] in rows
    assert ["user", "faiss", *size, "hnsw: recall@10 0.9876 of exact search"] in rows
    assert ["user", "pq", *size, "16 times smaller: 4 subspaces of 8 bits"] in rows
    assert ["user", "tensorboard-projector", *size, "5 of 40 rows"] in rows


def test_what_pq_costs_stands_beside_it(small_config: SmallConfig, tmp_path: Path) -> None:
    write_exports(tmp_path, 4321, "user", "fav")
    rows = page(small_config, tmp_path).rows
    assert ["mrr", "0.5000", "0.4500", "-10.0%"] in rows
    assert ["fav", "0.4000", "0.4200", "+5.0%"] in rows
    assert not [row for row in rows if row[0] == "mrr_lhs"]


@pytest.mark.parametrize("change", [{"checkpoint": 4000}, {"formats": {}}, None])
def test_what_is_not_of_this_checkpoint_is_left_out(
    change: dict[str, object] | None, small_config: SmallConfig, tmp_path: Path
) -> None:
    write_exports(tmp_path, 4321, "user", "fav")
    url = tmp_path / "embeddings/manifest.json"
    if change is None:
        url.unlink()
    else:
        url.write_text(json.dumps(json.loads(url.read_text()) | change))
    assert "Exported" not in page(small_config, tmp_path).texts
