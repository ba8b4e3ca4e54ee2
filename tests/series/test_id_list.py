"""Lists of ids, in every form that a user may have them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twhin_core.errors import UserError
from twhin_core.series.id_list import read_ids

NUMBER = UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("ids.txt", b"b\na\nb\n", ["a", "b"]),
        ("ids", b"a\r\n b \r\n\r\n", [" b ", "a"]),
        ("ids.txt", "\ufeffé\u2028x\n7".encode(), ["7", "é\u2028x"]),
        ("ids.csv", b"id\na\nb\n", ["a", "b"]),
        ("ids.csv", b'name,id\nAda,"a,1"\nBob,b\nshort\n', ["a,1", "b"]),
        ("ids.csv", b"user\na\n", ["a"]),
        ("ids.tsv", b"id\tname\na\tAda\n", ["a"]),
        ("ids.csv.gz", gzip.compress(b"id\na\n", mtime=0), ["a"]),
    ],
)
def test_text(tmp_path: Path, name: str, content: bytes, expected: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_ids(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["b", None, "a", "a", ""]), ["a", "b"]),
        (pa.array([7, -1, 10]), ["-1", "10", "7"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([NUMBER.bytes], pa.binary(16)), [str(NUMBER)]),
        (pa.array([NUMBER.bytes], pa.uuid()), [str(NUMBER)]),
        (pa.array(["a"], pa.large_string()), ["a"]),
    ],
)
def test_parquet(tmp_path: Path, values: pa.Array, expected: list[str]) -> None:
    for column in ("id", "other"):
        pq.write_table(pa.table({column: values}), tmp_path / "ids.parquet")
        assert read_ids(str(tmp_path / "ids.parquet")) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.txt", b"", "has no ids"),
        ("ids.txt", b"\n\n", "has no ids"),
        ("ids.txt", b"a\n\xff\n", "line 2: not text in UTF-8"),
        ("ids.csv", b"id\n", "has no ids"),
        ("ids.csv", b"", "its columns are none"),
        ("ids.csv", b"a,b\n1,2\n", "expected one column id; its columns are a, b"),
        ("ids.csv", b"id,id\n1,2\n", "expected one column id; its columns are id, id"),
        ("ids.csv.gz", b"no", "not a CSV"),
        ("ids.parquet", b"no", "not a complete Parquet file"),
        ("ids.parquet", {"a": ["1"], "b": ["2"]}, "expected one column id; its columns are a, b"),
        ("ids.parquet", {"id": [1.5]}, "1.5 is not an id"),
    ],
)
def test_what_is_no_list(tmp_path: Path, name: str, content: bytes | dict[str, Any], message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(pa.table(content), path)
    with pytest.raises(UserError, match=message):
        read_ids(str(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_ids(str(tmp_path / "ids.txt"))
