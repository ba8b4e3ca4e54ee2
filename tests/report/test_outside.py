"""What the report says of the vectors from outside at which rows started."""

from __future__ import annotations

from pathlib import Path

from twhin_core import storage
from twhin_core.report import outside
from twhin_core.report.write import templates
from twhin_core.training.outside_record import RECORD


def test_the_counts_by_hand(tmp_path: Path) -> None:
    counts = {"width": 768, "matched": 11200, "without_vector": 800, "without_node": 3, "rows": [], "raw_files": []}
    tables = {
        "tweet": {**counts, "path": "gs://bucket/texts", "frozen": True},
        "user": {**counts, "path": "users.parquet", "frozen": False, "without_node": 1200},
    }
    storage.write_json(storage.join(str(tmp_path), RECORD), tables)
    said = outside.collect(str(tmp_path))
    assert said == [
        "tweet: 11,200 rows start at vectors of 768 numbers from gs://bucket/texts, frozen; 800 nodes have no vector, "
        "3 vectors no node.",
        "user: 11,200 rows start at vectors of 768 numbers from users.parquet; 800 nodes have no vector, 1,200 vectors "
        "no node.",
    ]
    page = templates().get_template("training.html").render(panels=[], charts=None, earlier=None, outside=said)
    assert all(f"<p>{sentence}</p>" in page for sentence in said)
    (tmp_path / RECORD).write_text("{")
    assert outside.collect(str(tmp_path)) == []
    assert outside.collect(str(tmp_path / "nowhere")) == []
