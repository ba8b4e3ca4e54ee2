"""Reading files of every format into one table, and mistakes in them."""

from __future__ import annotations

import datetime
import gzip
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.config.time_window import TimeWindow
from twhin_core.errors import UserError
from twhin_core.graph.connect import connect
from twhin_core.graph.raw_files import check_sources

COLUMNS = ("lhs", "relation", "rhs", "weight", "time", "split")


def read(*sources: Source) -> list[tuple[Any, ...]]:
    """All rows of the sources (lhs, relation, rhs, weight, time, split), sorted."""
    checked = check_sources(list(sources))
    with connect(Prepare(sources=list(sources))) as engine:
        rows = engine.keep("rows", engine.read(checked)).to_pyarrow().to_pylist()
    return sorted((tuple(row[name] for name in COLUMNS) for row in rows), key=str)


def bad_times(source: Source) -> list[bool]:
    """For each row of a source, by lhs, whether its time is invalid."""
    with connect(Prepare(sources=[source])) as engine:
        rows = engine.keep("rows", engine.read(check_sources([source]))).to_pyarrow().to_pylist()
    return [row["bad_time"] for row in sorted(rows, key=lambda row: str(row["lhs"]))]


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


def test_a_format_overrides_the_suffix_and_windows_line_ends_are_read(tmp_path: Path) -> None:
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
    pq.write_table(pa.table({"lhs": pa.array([1], pa.int32()), "rhs": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"rhs": ["2"], "more": [0.5], "lhs": pa.array([3], pa.uint64())}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("rhs,lhs\nright,left\n")
    (tmp_path / "d.tsv").write_text("lhs\tother\trhs\nleft\t-\tright\n")
    (tmp_path / "_SUCCESS").touch()
    rows = read(Source(path=str(tmp_path), relation="r"))
    expected = [("1", "x"), ("3", "2"), ("left", "right"), ("left", "right")]
    assert rows == [(lhs, "r", rhs, 1.0, None, None) for lhs, rhs in expected]


UUIDS = ["00112233-4455-6677-8899-aabbccddeeff", "fedcba98-7654-3210-0f1e-2d3c4b5a6978"]


@pytest.mark.parametrize("type_", [pa.uuid(), pa.binary(16), pa.string()])
def test_uuids_are_written_out(tmp_path: Path, type_: pa.DataType) -> None:
    values = UUIDS if type_ == pa.string() else [uuid.UUID(text).bytes for text in UUIDS]
    column = pa.array([*values, None], type_)
    pq.write_table(pa.table({"lhs": column, "rhs": ["a", "b", "c"]}), tmp_path / "raw.parquet")
    rows = read(Source(path=str(tmp_path / "raw.parquet"), relation="r"))
    assert {(row[0], row[2]) for row in rows} == {(UUIDS[0], "a"), (UUIDS[1], "b"), (None, "c")}


def test_the_first_time_decides_the_type(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("lhs,rhs,t\na,b,\nc,d, \ne,f,17\n")
    (tmp_path / "b.csv").write_text("lhs,rhs,t\ng,h,\n")  # none: as in the other file
    rows = read(Source(path=str(tmp_path), relation="r", timestamp="t"))
    assert [row[4] for row in rows] == [None, None, 17, None]


@pytest.mark.parametrize(
    ("times", "expected", "bad"),
    [
        (["1", "", "soon", str(2**63 - 1), str(2**63)], [1, None, None, 2**63 - 1, None], "--x-x"),
        (
            ["2020-01-01", "", "2020-13-01", "9999-12-31 23:59:59", "10000-01-01"],
            [1577836800, None, None, 253402300799, None],
            "--x-x",
        ),
        (pa.array([1, None, 2**64 - 1], pa.uint64()), [1, None, None], "--x"),
        (pa.array([-(10**6), None, 253402300800 * 10**6], pa.timestamp("us")), [-1, None, None], "--x"),
        (pa.array([0, None, 4_000_000], pa.int32()).cast(pa.date32()), [0, None, None], "--x"),
    ],
)
def test_times_out_of_range(tmp_path: Path, times: Any, expected: list[int | None], bad: str) -> None:
    lhs = [chr(ord("a") + i) for i in range(len(times))]
    if isinstance(times, list):
        path = tmp_path / "raw.csv"
        path.write_text("lhs,rhs,t\n" + "".join(f"{one},x,{time}\n" for one, time in zip(lhs, times, strict=True)))
    else:
        path = tmp_path / "raw.parquet"
        pq.write_table(pa.table({"lhs": lhs, "rhs": ["x"] * len(lhs), "t": times}), path)
    source = Source(path=str(path), relation="r", timestamp="t")
    assert [row[4] for row in read(source)] == expected
    assert bad_times(source) == [mark == "x" for mark in bad]


def test_sources_are_read_separately(tmp_path: Path) -> None:
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
    assert message.startswith(f"{path}: not a complete Parquet file")


@pytest.mark.parametrize("use", ["lhs", "rhs", "relation_column", "weight", "timestamp"])
def test_a_missing_column(tmp_path: Path, use: str) -> None:
    pq.write_table(pa.table({"lhs": ["a"], "rhs": ["b"], "relation": ["r"]}), tmp_path / "raw.parquet")
    (tmp_path / "raw.csv").write_text("lhs,rhs,relation\na,b,r\n")
    for name in ("raw.parquet", "raw.csv"):
        keys = {"relation_column": "relation", use: "gone"}
        message = refused(Source(path=str(tmp_path / name), **keys))
        assert message == f"{tmp_path / name}: has no column 'gone' ({use}); its columns are lhs, rhs, relation"


def test_a_column_missing_in_one_of_many_files(tmp_path: Path) -> None:
    for part in range(20):
        name = "rhs" if part != 13 else "target"
        pq.write_table(pa.table({"lhs": ["a"], name: ["b"]}), tmp_path / f"{part:02d}.parquet")
    message = refused(Source(path=str(tmp_path), relation="r"))
    assert message == f"{tmp_path / '13.parquet'}: has no column 'rhs' (rhs); its columns are lhs, target"


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ((pa.array([7]), pa.array(["007"])), ("integer", "string")),
        ((pa.array(["a"]), pa.array([b"0123456789abcdef"], pa.binary(16))), ("UUID", "string")),
    ],
)
def test_an_id_column_of_mixed_types(tmp_path: Path, values: tuple[pa.Array, pa.Array], kinds: tuple[str, str]) -> None:
    for part, column in enumerate(values):
        pq.write_table(pa.table({"lhs": ["a"], "rhs": column}), tmp_path / f"{part}.parquet")
    message = refused(Source(path=f"{tmp_path}/*.parquet", relation="r"))
    assert message.startswith(f"{tmp_path}/*.parquet: the ids in column 'rhs' are of different types: {kinds[0]} in ")
    assert f", {kinds[1]} in {tmp_path}/" in message


def test_a_time_in_milliseconds_beyond_microseconds(tmp_path: Path) -> None:
    time = pa.array([0, 2**62], pa.timestamp("ms"))
    pq.write_table(pa.table({"x": [1, 2], "lhs": ["a", "b"], "rhs": ["b", "c"], "t": time}), tmp_path / "raw.parquet")
    message = refused(Source(path=str(tmp_path / "raw.parquet"), relation="r", timestamp="t"))
    assert message == (f"{tmp_path / 'raw.parquet'}: column 't' (timestamp) has a time out of range in its row group 0")


@pytest.mark.parametrize(("start", "kind"), [(17, "integers"), ("2020-01-01", "timestamps")])
def test_a_window_of_another_type_than_the_times(tmp_path: Path, start: int | str, kind: str) -> None:
    time = pa.array([0], pa.timestamp("s")) if start == 17 else pa.array([0])
    pq.write_table(pa.table({"lhs": ["a"], "rhs": ["b"], "t": time}), tmp_path / "raw.parquet")
    source = Source(path=str(tmp_path / "raw.parquet"), relation="r", timestamp="t")
    with pytest.raises(UserError, match=f"different types cannot be compared: .*{kind} in prepare.time_window"):
        check_sources([source], TimeWindow(start=start))


def test_parquet_ids_that_are_not_text(tmp_path: Path) -> None:
    letters = pa.array([b"ok", b"\xff\xfe"])
    ids = pa.Array.from_buffers(pa.string(), 2, letters.buffers())
    path = tmp_path / "raw.parquet"
    pq.write_table(pa.table({"lhs": ids, "rhs": ["a", "b"]}), path)
    message = refused(Source(path=str(path), relation="r"))
    assert str(path) in message
    assert "not valid UTF8" in message


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


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
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


def test_column_names_for_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lhs": ["a"], "rhs": ["b"]}), tmp_path / "raw.parquet")
    assert "`columns`" in refused(Source(path=str(tmp_path / "raw.parquet"), relation="r", columns=["lhs", "rhs"]))


def test_times_of_different_types(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("lhs,rhs,t\na,b,17\n")
    (tmp_path / "b.csv").write_text("lhs,rhs,t\na,b,2020-01-01\n")
    message = refused(Source(path=str(tmp_path / "*.csv"), relation="r", timestamp="t"))
    assert f"integers in {tmp_path / 'a.csv'}, timestamps in {tmp_path / 'b.csv'}" in message
