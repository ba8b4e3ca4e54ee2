"""A record that is not whole counts as none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from twhin_core import storage
from twhin_core.records import Record, find_whole, read_record

VALUE = {"made_from": "a", "rows": 3}
WHOLE = storage.as_json(VALUE).encode()


class Rows(Record):
    rows: int


@pytest.mark.parametrize(
    ("content", "value", "record"),
    [
        (WHOLE, VALUE, Rows(made_from="a", rows=3)),
        (storage.as_json({"made_from": "b", "rows": 3}).encode(), {"made_from": "b", "rows": 3}, None),
        (storage.as_json({"made_from": "a"}).encode(), {"made_from": "a"}, None),
        (storage.as_json({"made_from": "a", "rows": "x"}).encode(), {"made_from": "a", "rows": "x"}, None),
        (storage.as_json([1, 2]).encode(), [1, 2], None),
        (b'{"made_from": "a", "rows": 3}', VALUE, Rows(made_from="a", rows=3)),  # of a version without checksums
        (WHOLE.replace(b": 3,", b": 4,"), None, None),
        (WHOLE[:-9], None, None),
        (WHOLE[1:], None, None),
        (b"", None, None),
        (b"\xff" + WHOLE, None, None),
        (b"rows", None, None),
    ],
)
def test_only_a_whole_one_is_read(
    content: bytes, value: Any, record: Rows | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(content)
    caplog.set_level(logging.DEBUG, "twhin")
    assert find_whole(str(file)) == value
    assert read_record(Rows, str(file), "a") == record
    assert not caplog.records
    assert find_whole(str(file), "its rows are counted anew") == value
    assert [f"its rows are counted anew: {file}" in line for line in caplog.messages] == (
        [True] if value is None else []
    )


def test_one_that_is_not_there_is_no_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_whole(str(tmp_path / "none.json"), "lost") is None
    assert read_record(Rows, str(tmp_path / "none.json"), "a") is None
    assert not caplog.records
