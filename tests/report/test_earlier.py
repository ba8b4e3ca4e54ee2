"""What the report says of the earlier version that a run started from, or stayed near."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.report import earlier
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.earlier import EARLIER


def test_the_counts_by_hand(tmp_path: Path) -> None:
    pin = {"root": "runs/monday", "step": 1200, "digest": "0"}
    tables = {
        "user": {"matched": 12871, "untrained": 52, "new": 1203, "from_neighbors": 1250, "gone": 14},
        "ad": {"matched": 0, "untrained": 0, "new": 5, "from_neighbors": 0, "gone": 0},
    }
    relations = {"matched": ["fav", "follow"], "new": ["by"], "gone": []}
    url = storage.join(str(tmp_path), EARLIER)
    storage.write_json(url, {"training.warm_start.from": {**pin, "tables": tables, "relations": relations}})
    found = earlier.collect(str(tmp_path))
    assert found is not None
    assert found.said == ["Started from step 1,200 of runs/monday. Relations: 2 matched, 1 new, 0 gone."]
    assert found.rows is not None
    assert found.rows.headings == [
        "table", "matched", "matched, without edges then", "new", "started from neighbors", "gone",
    ]  # fmt: skip
    assert found.rows.rows == [["user", "12,871", "52", "1,203", "1,250", "14"], ["ad", "0", "0", "5", "0", "0"]]
    storage.write_json(url, {"training.anchor.to": {**pin, "tables": {"user": 12871, "ad": 0}}})
    found = earlier.collect(str(tmp_path))
    assert found is not None
    assert (found.said, found.rows) == (["Held near step 1,200 of runs/monday: 12,871 of user, 0 of ad."], None)


@pytest.mark.parametrize("content", [None, '{"a": ', '{"crc32c": "00000000"}'])
def test_nothing_is_said_without_a_whole_record(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        Path(tmp_path, "training").mkdir()
        Path(tmp_path, EARLIER).write_text(content)
    assert earlier.collect(str(tmp_path)) is None


def test_it_is_on_the_page(trained: tuple[Config, str], small_config: SmallConfig, tmp_path: Path) -> None:
    _, before = trained
    training = {"warm_start": {"from": before}, "anchor": {"to": before, "weight": 0.1}, "num_epochs": 1}
    config, root = small_config(training=training), str(tmp_path / "second")
    prepare(config, root)
    train(config, root)
    evaluate(config, root)
    page = Path(root, "evaluation/report.html").read_text()
    assert "From an earlier version" in page
    assert f"of {before}. Relations: 2 matched, 0 new, 0 gone." in page
    assert "40 of user, 30 of tweet." in page
