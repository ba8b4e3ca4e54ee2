"""What the report says of the data of two days, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.report.page import Page
from twhin_core.report import changes
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


@pytest.fixture
def two_days(small_config: SmallConfig, tmp_path: Path) -> str:
    """Ten users fav a tweet; then five more do, and a row is of no relation. Returns the root of the second version."""
    (tmp_path / "raw").mkdir()
    asked = {
        "sources": [{"path": str(tmp_path / "raw"), "relation_column": "relation"}],
        "split": {"validation": 0.0, "test": 0.0},
    }
    model = {"relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}]}
    for day, users in enumerate((range(10), range(10, 15))):
        rows = [(f"u{n}", "fav", "t1") for n in users] + [("u1", "poke", "t1")] * day
        columns = dict(zip(("lhs", "relation", "rhs"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), tmp_path / f"raw/{day}.parquet")
        before = {"previous": str(tmp_path / "0")} if day else {}
        prepare(small_config(prepare={**asked, **before}, model=model), str(tmp_path / str(day)))
    return str(tmp_path / "1")


def index(before: list[float], now: list[float]) -> float:
    return sum((new - old) * math.log(new / old) for old, new in zip(before, now, strict=True))


def test_the_tables_by_hand(two_days: str, tmp_path: Path) -> None:
    found = changes.collect(two_days)
    assert found is not None
    assert found.previous == str(tmp_path / "0")
    assert found.overall.headings == ["figure", "before", "now", "change"]
    assert found.overall.rows == [
        ["edges", "10", "15", "+50.0%"],
        ["nodes", "11", "16", "+45.5%"],
        ["rejected rows", "0", "1", "–"],
        ["rejected rows, share", "0.0%", "16.7%", "–"],
        ["relations' shares of the edges, psi", "–", "0.000", "–"],
    ]
    assert found.tables.headings == ["table", "nodes before", "now", "change", "new", "lost"]
    assert found.tables.rows == [
        ["user", "10", "15", "+50.0%", "33.3%", "0.0%"],
        ["tweet", "1", "1", "+0.0%", "0.0%", "0.0%"],
    ]
    # Of ten users one is the top 1 %, none the 9 % that follow, four the next 40 % and five the rest; of fifteen one,
    # one, six and seven. Shares below 0.0001 count as that.
    of_users = index([0.1, 0.0001, 0.4, 0.5], [1 / 15, 1 / 15, 6 / 15, 7 / 15])
    assert found.relations.headings == ["relation", "edges before", "now", "change", "psi of lhs", "psi of rhs"]
    assert found.relations.rows == [["fav", "10", "15", "+50.0%", f"{of_users:.3f}", "0.000"]]
    ones = ["1.0 → 1.0", *["1 → 1"] * 4, "10.0% → 6.7%"]
    whole = ["10.0 → 15.0", *["10 → 15"] * 4, "100.0% → 100.0%"]
    assert found.degrees.headings == ["degrees of", "side", "mean", "p50", "p90", "p99", "max", "top 1 %"]
    assert found.degrees.rows == [
        ["user", "", *ones], ["tweet", "", *whole], ["fav", "lhs", *ones], ["fav", "rhs", *whole],
    ]  # fmt: skip
    assert changes.collect(str(tmp_path / "0")) is None, "the first day has none before"


@pytest.mark.parametrize("content", [None, '{"a": ', '{"crc32c": "00000000"}'])
def test_nothing_is_said_without_whole_figures(content: str | None, two_days: str) -> None:
    path = Path(two_days, "graph/changes.json")
    path.unlink() if content is None else path.write_text(content)
    assert changes.collect(two_days) is None


def test_it_is_on_the_page(two_days: str, small_config: SmallConfig, tmp_path: Path) -> None:
    rows = [(f"u{n % 10}", "fav", f"x{n}") for n in range(60)]
    columns = dict(zip(("lhs", "relation", "rhs"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "raw/2.parquet")
    asked = {
        "sources": [{"path": str(tmp_path / "raw"), "relation_column": "relation"}],
        "split": {"validation": 0.0, "test": 0.0},
        "previous": two_days,
    }
    model = {"relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}]}
    sections: dict[str, Any] = {"prepare": asked, "model": model, "training": {"num_epochs": 1}}
    config, root = small_config(**sections), str(tmp_path / "2")
    prepare(config, root)
    train(config, root)
    evaluate(small_config(**sections, test_data={"data_root": f"{root}/graph/edges/train"}), root)
    page = Page(Path(root, "evaluation/report.html").read_text())
    assert "Changes in the data" in page.texts
    assert ["user", "15", "15", "+0.0%", "0.0%", "0.0%"] in page.rows
    assert ["fav", "15", "75", "+400.0%"] in [row[:4] for row in page.rows]
