"""Files of every format as one table, and the mistakes in them."""

from __future__ import annotations

import datetime
import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twhin_core.config_prepare import Prepare, Source
from twhin_core.errors import UserError
from twhin_core.graph.engine import connect
from twhin_core.graph.raw_files import check_sources

COLUMNS = ("lhs", "relation", "rhs", "weight", "time", "split")


def read(*sources: Source) -> list[tuple[Any, ...]]:
    """All rows of the sources (lhs, relation, rhs, weight, time, split), sorted."""
    checked = check_sources(list(sources))
    with connect(Prepare(sources=list(sources))) as engine:
        rows = engine.keep("rows", engine.read(checked)).to_pyarrow().to_pylist()
    return sorted((tuple(row[name] for name in COLUMNS) for row in rows), key=str)


def refused(*sources: Source) -> str:
    with pytest.raises(UserError) as raised:
        read(*sources)
    message = str(raised.value)
    assert "\n" not in message
    return message


TEXT = [("user:1", "fav", "tweet:1", "2.5", "2023-01-01 00:00:10"), ("007", "", 'a "b",c', "", "2023-01-02")]
ROWS = sorted(
    [
        ("user:1", "fav", "tweet:1", 2.5, 1672531210, None),
        ("007", None, 'a "b",c', None, 1672617600, None),
    ]
)
HEADER = ["who", "what", "whom", "much", "when"]
USED: dict[str, Any] = {"lhs": "who", "relation_column": "what", "rhs": "whom", "weight": "much", "timestamp": "when"}


def as_csv(header: list[str] | None) -> str:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if '"' in value else value

    return "".join(",".join(map(quoted, row)) + "\n" for row in [*([header] if header else []), *TEXT])


def as_tsv(header: list[str] | None) -> str:
    return "".join("\t".join(row) + "\n" for row in [*([header] if header else []), *TEXT])


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("header", [HEADER, None])
def test_text(tmp_path: Path, form: str, suffix: str, header: list[str] | None) -> None:
    text = as_csv(header) if form == "csv" else as_tsv(header)
    data = text.encode()
    path = tmp_path / f"raw.{form}{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    columns = None if header else HEADER
    assert read(Source(path=str(path), columns=columns, **USED)) == ROWS


def test_a_format_beats_the_suffix_and_windows_lines_do(tmp_path: Path) -> None:
    path = tmp_path / "raw.txt"
    path.write_bytes(b"\xef\xbb\xbflhs,rhs\r\na,b\r\n")
    assert "suffix" in refused(Source(path=str(path), relation="r"))
    assert read(Source(path=str(path), relation="r", format="csv")) == [("a", "r", "b", 1.0, None, None)]


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        (pa.string(), ["12", "-3"]),
        (pa.large_string(), ["12", "-3"]),
        (pa.dictionary(pa.int8(), pa.string()), ["12", "-3"]),
        (pa.int64(), [12, -3]),
        (pa.int16(), [12, -3]),
    ],
)
def test_ids_of_parquet(tmp_path: Path, type_: pa.DataType, values: list[Any]) -> None:
    ids = (
        pa.array(values, pa.string()).dictionary_encode() if pa.types.is_dictionary(type_) else pa.array(values, type_)
    )
    pq.write_table(pa.table({"lhs": ids, "rhs": ids}), tmp_path / "raw.parquet")
    rows = read(Source(path=str(tmp_path / "raw.parquet"), relation="r", split="test"))
    assert rows == [("-3", "r", "-3", 1.0, None, "test"), ("12", "r", "12", 1.0, None, "test")]


@pytest.mark.parametrize(
    ("times", "second"),
    [
        (pa.array([86400], pa.int32()), 86400),
        (pa.array([datetime.date(1970, 1, 2)]), 86400),
        (pa.array([86400_999], pa.timestamp("ms")), 86400),
        (pa.array([86400_000_000_000], pa.timestamp("ns")), 86400),
        (pa.array([86400], pa.timestamp("s", tz="America/New_York")), 86400),
    ],
)
def test_times_of_parquet(tmp_path: Path, times: pa.Array, second: int) -> None:
    pq.write_table(pa.table({"lhs": ["a"], "rhs": ["b"], "t": times}), tmp_path / "raw.parquet")
    rows = read(Source(path=str(tmp_path / "raw.parquet"), relation="r", timestamp="t"))
    assert rows == [("a", "r", "b", 1.0, second, None)]


def test_numbers_of_text(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("lhs,rhs,w,t\na,b, 3 , 17 \na,c,heavy,soon\na,d,nan,\n")
    rows = read(Source(path=str(tmp_path / "raw.csv"), relation="r", weight="w", timestamp="t"))
    assert rows[0] == ("a", "r", "b", 3.0, 17, None)
    assert rows[1] == ("a", "r", "c", None, None, None)
    assert rows[2][3] != rows[2][3]  # nan, which prepare rejects
    assert rows[2][4] is None


def test_files_of_different_layouts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lhs": [1], "rhs": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"rhs": [2], "more": [0.5], "lhs": ["y"]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("rhs,lhs\nright,left\n")
    (tmp_path / "d.tsv").write_text("lhs\tother\trhs\nleft\t-\tright\n")
    (tmp_path / "_SUCCESS").touch()
    rows = read(Source(path=str(tmp_path), relation="r"))
    expected = [("1", "x"), ("left", "right"), ("left", "right"), ("y", "2")]
    assert rows == [(lhs, "r", rhs, 1.0, None, None) for lhs, rhs in expected]


def test_sources_keep_apart(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("lhs,rhs,w\na,b,2\n")
    (tmp_path / "b.csv").write_text("from,to\nc,d\n")
    one = Source(path=str(tmp_path / "a.csv"), relation="r", weight="w", split="train")
    two = Source(path=str(tmp_path / "b.csv"), relation="q", lhs="from", rhs="to", split="validation")
    assert read(one, two) == [("a", "r", "b", 2.0, None, "train"), ("c", "q", "d", 1.0, None, "validation")]


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    assert refused(Source(path=str(tmp_path / "*.parquet"), relation="r")) == f"{tmp_path}/*.parquet: no file matches"


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_parquet_file(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "raw.parquet"
    pq.write_table(pa.table({"lhs": ["a"] * 1000, "rhs": ["b"] * 1000}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    message = refused(Source(path=str(path), relation="r"))
    assert message.startswith(f"{path}: not a whole Parquet file")


@pytest.mark.parametrize("use", ["lhs", "rhs", "relation_column", "weight", "timestamp"])
def test_a_missing_column(tmp_path: Path, use: str) -> None:
    pq.write_table(pa.table({"lhs": ["a"], "rhs": ["b"], "relation": ["r"]}), tmp_path / "raw.parquet")
    (tmp_path / "raw.csv").write_text("lhs,rhs,relation\na,b,r\n")
    for name in ("raw.parquet", "raw.csv"):
        keys = {"relation_column": "relation", use: "gone"}
        message = refused(Source(path=str(tmp_path / name), **keys))
        assert message == f"{tmp_path / name}: has no column 'gone' ({use}); its columns are lhs, rhs, relation"


def test_a_repeated_column(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("lhs,rhs,lhs\na,b,c\n")
    assert "more than one column 'lhs'" in refused(Source(path=str(tmp_path / "raw.csv"), relation="r"))


@pytest.mark.parametrize(
    ("use", "column"),
    [
        ("lhs", pa.array([1.5])),
        ("rhs", pa.array([True])),
        ("lhs", pa.array([b"x"])),
        ("weight", pa.array(["1"])),
        ("timestamp", pa.array(["2020-01-01"])),
    ],
)
def test_a_column_of_a_wrong_type(tmp_path: Path, use: str, column: pa.Array) -> None:
    pq.write_table(pa.table({"lhs": ["a"], "rhs": ["b"], "odd": column}), tmp_path / "raw.parquet")
    message = refused(Source(path=str(tmp_path / "raw.parquet"), relation="r", **{use: "odd"}))
    assert message.startswith(f"{tmp_path / 'raw.parquet'}: column 'odd' ({use}) is {column.type}, not a")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("raw.csv", "lhs,rhs\na,b\nc\nd,e\n", 3),
        ("raw.csv", "lhs,rhs\na,b\nc,d,e\n", 3),
        ("raw.tsv", "lhs\trhs\na\tb\nc\td\ne\n", 4),
        ("raw.csv", 'lhs,rhs\na,b\nc,d\n"e,f\n', 4),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_broken_row(tmp_path: Path, name: str, text: str, line: int, zipped: bool) -> None:
    path = tmp_path / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    message = refused(Source(path=str(path), relation="r"))
    assert message.startswith(f"{path}: line {line}: "), message
    assert len(message) > len(f"{path}: line {line}: ") + 10


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    path.write_bytes(b"lhs,rhs\n" + b"a,b\n" * 5000 + b"\xff\xfe,c\n")
    assert str(path) in refused(Source(path=str(path), relation="r"))
    path.write_bytes(b"\xff\xfe\n")
    assert refused(Source(path=str(path), relation="r")).startswith(f"{path}: line 1: not a CSV in UTF-8")


def test_a_truncated_gz(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv.gz"
    text = "lhs,rhs\n" + "".join(f"{i * 7919 % 100003},{i * 104729 % 99991}\n" for i in range(50_000))
    whole = gzip.compress(text.encode())
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in refused(Source(path=str(path), relation="r"))
    path.write_bytes(b"lhs,rhs\n")
    assert refused(Source(path=str(path), relation="r")).startswith(f"{path}: line 1: ")


def test_an_empty_text_file(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").touch()
    message = refused(Source(path=str(tmp_path / "raw.csv"), relation="r"))
    assert message == f"{tmp_path / 'raw.csv'}: is empty, without even a header line"


def test_names_for_the_columns_of_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lhs": ["a"], "rhs": ["b"]}), tmp_path / "raw.parquet")
    assert "`columns`" in refused(Source(path=str(tmp_path / "raw.parquet"), relation="r", columns=["lhs", "rhs"]))


def test_times_of_different_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("lhs,rhs,t\na,b,17\n")
    (tmp_path / "b.csv").write_text("lhs,rhs,t\na,b,2020-01-01\n")
    message = refused(Source(path=str(tmp_path / "*.csv"), relation="r", timestamp="t"))
    assert f"integers in {tmp_path / 'a.csv'}, timestamps in {tmp_path / 'b.csv'}" in message
